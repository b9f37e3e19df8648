package block

import (
	"github.com/parquet-go/parquet-go"
)

// The rows of the files, as docs/format/block.md draws them. Times are nanoseconds since
// 1970 in UTC. Encodings are chosen so that every Parquet reader has them.

type profileRow struct {
	Type     string            `parquet:"type,dict"`
	Service  string            `parquet:"service,dict"`
	Series   uint32            `parquet:"series,delta"`
	Time     int64             `parquet:"time,delta,timestamp(nanosecond)"`
	End      int64             `parquet:"end_time,delta,timestamp(nanosecond)"`
	Duration int64             `parquet:"duration,dict"`
	Period   int64             `parquet:"period,dict"`
	Total    int64             `parquet:"total,delta"`
	ID       [16]byte          `parquet:"id"`
	FirstRow int64             `parquet:"first_row,delta"`
	Rows     int64             `parquet:"rows,delta"`
	Name     string            `parquet:"name,dict"`
	Labels   map[string]string `parquet:"labels" parquet-key:",dict" parquet-value:",dict"`
}

type sampleRow struct {
	Type    string `parquet:"type,dict"`
	Service string `parquet:"service,dict"`
	Series  uint32 `parquet:"series,delta"`
	Time    int64  `parquet:"time,delta,timestamp(nanosecond)"`
	Labels  uint32 `parquet:"labels,dict"`
	Stack   uint32 `parquet:"stack,dict"`
	Value   int64  `parquet:"value,dict"`
}

type stackRow struct {
	Stack    uint32 `parquet:"stack,delta"`
	Parent   uint32 `parquet:"parent,delta"`
	Location uint32 `parquet:"location,delta"`
	ID       uint64 `parquet:"id"`
}

// frameRow is a line of a location; a location without lines has one row with Depth -1.
type frameRow struct {
	Location   uint32 `parquet:"location,delta"`
	Depth      int32  `parquet:"depth,dict"` // 0 is the innermost
	Function   string `parquet:"function,dict"`
	SystemName string `parquet:"system_name,dict"`
	File       string `parquet:"file,dict"`
	StartLine  int64  `parquet:"start_line,delta"`
	Line       int64  `parquet:"line,delta"`
	Column     int64  `parquet:"column,dict"`
	Address    uint64 `parquet:"address"`
	Mapping    string `parquet:"mapping,dict"`
	BuildID    string `parquet:"build_id,dict"`
	Folded     bool   `parquet:"folded"`
}

type labelRow struct {
	Labels uint32 `parquet:"labels,delta"`
	Key    string `parquet:"key,dict"`
	Value  string `parquet:"value,dict"`
	Number int64  `parquet:"number,delta"`
	Unit   string `parquet:"unit,dict"`
}

type functionRow struct {
	Type       string `parquet:"type,dict"`
	Function   string `parquet:"function,dict"`
	Series     uint32 `parquet:"series,delta"`
	Minute     int64  `parquet:"minute,dict,timestamp(nanosecond)"`
	Self       int64  `parquet:"self,dict"`
	Cumulative int64  `parquet:"cumulative,dict"`
	Samples    int64  `parquet:"samples,dict"`
}

type totalRow struct {
	Type    string `parquet:"type,dict"`
	Service string `parquet:"service,dict"`
	Series  uint32 `parquet:"series,delta"`
	Labels  uint32 `parquet:"labels,dict"`
	Stack   uint32 `parquet:"stack,delta"`
	Value   int64  `parquet:"value,dict"`
}

// Pages of 16 Ki values of four bytes: the least that is read. Row groups of a million rows bound a
// writer's memory; a dictionary past a quarter of a million values is given up for plain numbers.
const (
	pageBytes       = 64 << 10
	groupRows       = 1 << 20
	dictionaryBytes = 1 << 20
	indexPrefix     = 128 // bytes of a text that column indexes keep
)

func writerOptions() []parquet.WriterOption {
	return []parquet.WriterOption{
		parquet.Compression(&parquet.Zstd), parquet.PageBufferSize(pageBytes), parquet.MaxRowsPerRowGroup(groupRows),
		parquet.DictionaryMaxBytes(dictionaryBytes), parquet.ColumnIndexSizeLimit(func([]string) int { return indexPrefix }),
		parquet.CreatedBy("quantra", "1", ""),
	}
}
