CREATE TABLE IF NOT EXISTS `profiles`.schema ON CLUSTER `main` (key String, value String, at DateTime64(3, 'UTC')) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/all/profiles/schema', '{shard}-{replica}', at) ORDER BY (key, value);

CREATE TABLE IF NOT EXISTS `profiles`.samples_local ON CLUSTER `main` (tenant LowCardinality(String) CODEC(ZSTD(1)), type LowCardinality(String) CODEC(ZSTD(1)), service LowCardinality(String) CODEC(ZSTD(1)), series UInt64 CODEC(Delta(8), ZSTD(1)), time DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)), nth UInt32 CODEC(ZSTD(1)), labels UInt64 CODEC(Delta(8), ZSTD(1)), stack UInt64 CODEC(Delta(8), ZSTD(1)), value Int64 CODEC(ZSTD(1)), block LowCardinality(String) CODEC(ZSTD(1))) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/profiles/samples', '{replica}') PARTITION BY toDate(time) PRIMARY KEY (tenant, type, service, toStartOfHour(time)) ORDER BY (tenant, type, service, toStartOfHour(time), stack, series, time) SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, storage_policy = 'tiers';

CREATE TABLE IF NOT EXISTS `profiles`.samples ON CLUSTER `main` AS `profiles`.samples_local ENGINE = Distributed('main', 'profiles', samples_local, series);

CREATE TABLE IF NOT EXISTS `profiles`.profiles_local ON CLUSTER `main` (tenant LowCardinality(String) CODEC(ZSTD(1)), type LowCardinality(String) CODEC(ZSTD(1)), service LowCardinality(String) CODEC(ZSTD(1)), series UInt64 CODEC(Delta(8), ZSTD(1)), time DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)), end_time DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)), nth UInt32 CODEC(ZSTD(1)), duration Int64 CODEC(ZSTD(1)), period Int64 CODEC(ZSTD(1)), total Int64 CODEC(ZSTD(1)), samples UInt32 CODEC(ZSTD(1)), id FixedString(16), block LowCardinality(String) CODEC(ZSTD(1))) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/profiles/profiles', '{replica}') PARTITION BY toDate(time) ORDER BY (tenant, type, service, series, time) SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, storage_policy = 'tiers';

CREATE TABLE IF NOT EXISTS `profiles`.profiles ON CLUSTER `main` AS `profiles`.profiles_local ENGINE = Distributed('main', 'profiles', profiles_local, series);

CREATE TABLE IF NOT EXISTS `profiles`.functions_local ON CLUSTER `main` (tenant LowCardinality(String) CODEC(ZSTD(1)), type LowCardinality(String) CODEC(ZSTD(1)), function String CODEC(ZSTD(1)), service LowCardinality(String) CODEC(ZSTD(1)), series UInt64 CODEC(Delta(8), ZSTD(1)), minute DateTime64(0, 'UTC') CODEC(Delta(8), ZSTD(1)), self Int64 CODEC(ZSTD(1)), cumulative Int64 CODEC(ZSTD(1)), samples Int64 CODEC(ZSTD(1)), block LowCardinality(String) CODEC(ZSTD(1))) ENGINE = ReplicatedMergeTree('/clickhouse/tables/{shard}/profiles/functions', '{replica}') PARTITION BY toDate(minute) ORDER BY (tenant, type, function, service, series, minute) SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, storage_policy = 'tiers';

CREATE TABLE IF NOT EXISTS `profiles`.functions ON CLUSTER `main` AS `profiles`.functions_local ENGINE = Distributed('main', 'profiles', functions_local, series);

CREATE TABLE IF NOT EXISTS `profiles`.stacks_local ON CLUSTER `main` (tenant LowCardinality(String) CODEC(ZSTD(1)), id UInt64 CODEC(Delta(8), ZSTD(1)), day Date, up UInt64 CODEC(ZSTD(1)), path Array(UInt64) CODEC(ZSTD(1))) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/profiles/stacks', '{replica}', day) PARTITION BY day ORDER BY (tenant, id) SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, storage_policy = 'tiers';

CREATE TABLE IF NOT EXISTS `profiles`.stacks ON CLUSTER `main` AS `profiles`.stacks_local ENGINE = Distributed('main', 'profiles', stacks_local, id);

CREATE TABLE IF NOT EXISTS `profiles`.frames_local ON CLUSTER `main` (tenant LowCardinality(String) CODEC(ZSTD(1)), location UInt64 CODEC(Delta(8), ZSTD(1)), day Date, function Array(LowCardinality(String)), system_name Array(LowCardinality(String)), file Array(LowCardinality(String)), start_line Array(Int64), line Array(Int64), `column` Array(Int64), address UInt64, mapping LowCardinality(String) CODEC(ZSTD(1)), build_id LowCardinality(String) CODEC(ZSTD(1)), folded UInt8) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/profiles/frames', '{replica}', day) PARTITION BY day ORDER BY (tenant, location) SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, storage_policy = 'tiers';

CREATE TABLE IF NOT EXISTS `profiles`.frames ON CLUSTER `main` AS `profiles`.frames_local ENGINE = Distributed('main', 'profiles', frames_local, location);

CREATE TABLE IF NOT EXISTS `profiles`.label_sets_local ON CLUSTER `main` (tenant LowCardinality(String) CODEC(ZSTD(1)), labels UInt64 CODEC(Delta(8), ZSTD(1)), day Date, key Array(LowCardinality(String)), value Array(String) CODEC(ZSTD(1)), number Array(Int64), unit Array(LowCardinality(String))) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/profiles/label_sets', '{replica}', day) PARTITION BY day ORDER BY (tenant, labels) SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, storage_policy = 'tiers';

CREATE TABLE IF NOT EXISTS `profiles`.label_sets ON CLUSTER `main` AS `profiles`.label_sets_local ENGINE = Distributed('main', 'profiles', label_sets_local, labels);

CREATE TABLE IF NOT EXISTS `profiles`.series_local ON CLUSTER `main` (tenant LowCardinality(String) CODEC(ZSTD(1)), series UInt64 CODEC(Delta(8), ZSTD(1)), day Date, name LowCardinality(String) CODEC(ZSTD(1)), label Array(LowCardinality(String)), value Array(String) CODEC(ZSTD(1))) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/profiles/series', '{replica}', day) PARTITION BY day ORDER BY (tenant, series) SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, storage_policy = 'tiers';

CREATE TABLE IF NOT EXISTS `profiles`.series ON CLUSTER `main` AS `profiles`.series_local ENGINE = Distributed('main', 'profiles', series_local, series);

CREATE TABLE IF NOT EXISTS `profiles`.blocks_local ON CLUSTER `main` (tenant LowCardinality(String) CODEC(ZSTD(1)), block String CODEC(ZSTD(1)), region LowCardinality(String) CODEC(ZSTD(1)), level UInt8, partition DateTime64(0, 'UTC'), first DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)), last DateTime64(9, 'UTC') CODEC(Delta(8), ZSTD(1)), profiles UInt64, samples UInt64, sources Array(String), created DateTime64(3, 'UTC'), recorded DateTime64(3, 'UTC') DEFAULT now64(3)) ENGINE = ReplicatedReplacingMergeTree('/clickhouse/tables/{shard}/profiles/blocks', '{replica}', recorded) PARTITION BY toYYYYMM(partition) ORDER BY (tenant, block) SETTINGS index_granularity = 8192, non_replicated_deduplication_window = 10000, replicated_deduplication_window = 10000, replicated_deduplication_window_seconds = 604800, storage_policy = 'tiers';

CREATE TABLE IF NOT EXISTS `profiles`.blocks ON CLUSTER `main` AS `profiles`.blocks_local ENGINE = Distributed('main', 'profiles', blocks_local, cityHash64(tenant));

ALTER TABLE `profiles`.samples_local ON CLUSTER `main` MODIFY SETTING ttl_only_drop_parts = 0;

ALTER TABLE `profiles`.samples_local ON CLUSTER `main` MODIFY TTL multiIf(tenant = 'o\'neil' AND service = 'shop', greatest(toDateTime(time), toDateTime('2106-01-01 00:00:00', 'UTC')), 1 AND service = 'batch', toDateTime(time) + toIntervalSecond(3600), toDateTime(time) + toIntervalSecond(2592000)) DELETE, toDateTime(time) + toIntervalSecond(604800) TO VOLUME 'cold';

ALTER TABLE `profiles`.profiles_local ON CLUSTER `main` MODIFY SETTING ttl_only_drop_parts = 0;

ALTER TABLE `profiles`.profiles_local ON CLUSTER `main` MODIFY TTL multiIf(tenant = 'o\'neil' AND service = 'shop', greatest(toDateTime(time), toDateTime('2106-01-01 00:00:00', 'UTC')), 1 AND service = 'batch', toDateTime(time) + toIntervalSecond(3600), toDateTime(time) + toIntervalSecond(2592000)) DELETE, toDateTime(time) + toIntervalSecond(604800) TO VOLUME 'cold';

ALTER TABLE `profiles`.functions_local ON CLUSTER `main` MODIFY SETTING ttl_only_drop_parts = 0;

ALTER TABLE `profiles`.functions_local ON CLUSTER `main` MODIFY TTL multiIf(tenant = 'o\'neil' AND service = 'shop', greatest(toDateTime(minute), toDateTime('2106-01-01 00:00:00', 'UTC')), 1 AND service = 'batch', toDateTime(minute) + toIntervalSecond(3600), toDateTime(minute) + toIntervalSecond(2592000)) DELETE, toDateTime(minute) + toIntervalSecond(604800) TO VOLUME 'cold';

ALTER TABLE `profiles`.stacks_local ON CLUSTER `main` MODIFY SETTING ttl_only_drop_parts = 1;

ALTER TABLE `profiles`.stacks_local ON CLUSTER `main` MODIFY TTL greatest(toDateTime(day) + 86400, toDateTime('2106-01-01 00:00:00', 'UTC')) DELETE, toDateTime(day) + 86400 + toIntervalSecond(604800) TO VOLUME 'cold';

ALTER TABLE `profiles`.frames_local ON CLUSTER `main` MODIFY SETTING ttl_only_drop_parts = 1;

ALTER TABLE `profiles`.frames_local ON CLUSTER `main` MODIFY TTL greatest(toDateTime(day) + 86400, toDateTime('2106-01-01 00:00:00', 'UTC')) DELETE, toDateTime(day) + 86400 + toIntervalSecond(604800) TO VOLUME 'cold';

ALTER TABLE `profiles`.label_sets_local ON CLUSTER `main` MODIFY SETTING ttl_only_drop_parts = 1;

ALTER TABLE `profiles`.label_sets_local ON CLUSTER `main` MODIFY TTL greatest(toDateTime(day) + 86400, toDateTime('2106-01-01 00:00:00', 'UTC')) DELETE, toDateTime(day) + 86400 + toIntervalSecond(604800) TO VOLUME 'cold';

ALTER TABLE `profiles`.series_local ON CLUSTER `main` MODIFY SETTING ttl_only_drop_parts = 1;

ALTER TABLE `profiles`.series_local ON CLUSTER `main` MODIFY TTL greatest(toDateTime(day) + 86400, toDateTime('2106-01-01 00:00:00', 'UTC')) DELETE, toDateTime(day) + 86400 + toIntervalSecond(604800) TO VOLUME 'cold';

ALTER TABLE `profiles`.blocks_local ON CLUSTER `main` MODIFY SETTING ttl_only_drop_parts = 1;

ALTER TABLE `profiles`.blocks_local ON CLUSTER `main` MODIFY TTL greatest(toDateTime(last) + 86400, toDateTime('2106-01-01 00:00:00', 'UTC')) DELETE, toDateTime(last) + 86400 + toIntervalSecond(604800) TO VOLUME 'cold';
