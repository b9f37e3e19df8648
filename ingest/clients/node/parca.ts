// Sends a pprof file by Parca's published stubs, as the test of ingest that bundles and runs it says: parca.js URL TOKEN BAD GOOD.
// The first file must be refused, the second be taken by the same client.
import { readFileSync } from 'node:fs';
import { GrpcWebFetchTransport } from '@protobuf-ts/grpcweb-transport';
import { ProfileStoreServiceClient } from '@parca/client/dist/parca/profilestore/v1alpha1/profilestore.client';

const [url, token, bad, good] = process.argv.slice(2);
const client = new ProfileStoreServiceClient(new GrpcWebFetchTransport({ baseUrl: url, format: 'binary', meta: { Authorization: `Bearer ${token}`, 'X-Scope-OrgID': 'acme' } }));

async function send(file: string) {
  await client.writeRaw({
    tenant: '',
    normalized: false,
    series: [{
      labels: { labels: [{ name: '__name__', value: 'process_cpu' }, { name: 'job', value: 'client.test' }, { name: 'deployment.environment', value: 'test' }] },
      samples: [{ rawProfile: readFileSync(file), executableInfo: [] }],
    }],
  });
}

(async () => {
  try {
    await send(bad);
    throw new Error('a profile that is an hour ahead was taken');
  } catch (e: any) {
    if (!e.code) throw e;
    console.log(e.code, decodeURIComponent(e.message));
  }
  await send(good);
})().catch((e) => { console.error(e); process.exit(1); });
