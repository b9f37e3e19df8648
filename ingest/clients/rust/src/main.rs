//! Profiles itself by Pyroscope's client, as the test of ingest that runs it says:
//!
//!     quantra-rust-client URL TOKEN SECONDS

use std::time::{Duration, Instant};

use pyroscope::backend::{pprof_backend, BackendConfig, PprofConfig};
use pyroscope::pyroscope::PyroscopeAgentBuilder;

#[inline(never)]
fn busy_work(n: u64) -> u64 {
    (0..n).fold(0, |sum, i| std::hint::black_box(sum ^ i.wrapping_mul(31)))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().collect();
    let agent = PyroscopeAgentBuilder::new(
        &args[1],
        "rust.test",
        100,
        "pyroscope-rs",
        "2.1.5",
        pprof_backend(PprofConfig::default(), BackendConfig::default()),
    )
    .basic_auth("quantra", &args[2])
    .tenant_id("acme".to_string())
    .tags(vec![("region", "eu"), ("service.version", "v1")])
    .build()?;
    let running = agent.start()?;
    let until = Instant::now() + Duration::from_secs(args[3].parse()?);
    while Instant::now() < until {
        std::hint::black_box(busy_work(1_000_000));
    }
    running.stop()?.shutdown();
    Ok(())
}
