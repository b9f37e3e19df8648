//! Counts primes and profiles itself, for as many seconds as its argument says, for ever without one.

use std::time::{Duration, Instant};

use pyroscope::backend::{pprof_backend, BackendConfig, PprofConfig};
use pyroscope::pyroscope::PyroscopeAgentBuilder;

#[inline(never)]
fn is_prime(n: u64) -> bool {
    (2..).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = std::env::var("PYROSCOPE_SERVER_ADDRESS").unwrap_or("http://localhost:4040".to_string());
    let backend = pprof_backend(PprofConfig::default(), BackendConfig::default());
    let agent = PyroscopeAgentBuilder::new(server, "rust-example", 100, "pyroscope-rs", "2.1.5", backend).build()?;
    let running = agent.start()?;
    let until = match std::env::args().nth(1) {
        Some(seconds) => Some(Instant::now() + Duration::from_secs(seconds.parse()?)),
        None => None,
    };
    let mut n = 1;
    while until.map_or(true, |t| Instant::now() < t) {
        n += 1;
        std::hint::black_box(is_prime(n));
    }
    running.stop()?.shutdown(); // sends what it has
    Ok(())
}
