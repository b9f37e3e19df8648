//! A program that tells of its tasks by console-subscriber, as the test of ingest/console that runs it says:
//!
//!     quantra-rust-console ADDRESS
//!
//! Each task is planted with what the test looks for. It runs until its standard input ends, so that it does not outlive the test.

use std::{
    future::{pending, poll_fn, Future},
    io::Read,
    net::SocketAddr,
    sync::Arc,
    task::Poll,
    time::Duration,
};

use tokio::{
    sync::Semaphore,
    task::Builder,
    time::sleep,
};

const FOREVER: Duration = Duration::from_secs(3600);

fn spawn<F>(name: &str, future: F)
where
    F: Future<Output = ()> + Send + 'static,
{
    Builder::new().name(name).spawn(future).expect("no task was spawned");
}

/// Twenty wakes of itself for each by the timer.
async fn wakes_itself() {
    loop {
        sleep(Duration::from_millis(20)).await;
        let mut left = 20;
        poll_fn(|cx| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}

/// Holds its thread, as code that waits in a synchronous call does.
async fn never_yields() {
    std::thread::sleep(FOREVER);
}

/// Nothing has its waker: it cannot be woken.
async fn loses_its_waker() {
    pending::<()>().await;
}

async fn sleeps() {
    sleep(FOREVER).await;
}

async fn waits_for(permits: Arc<Semaphore>) {
    let _permit = permits.acquire().await;
    pending::<()>().await;
}

/// N bytes live over a wait, so they are part of the future.
async fn carries<const N: usize>() {
    let bytes = [1u8; N];
    sleep(FOREVER).await;
    std::hint::black_box(&bytes);
}

/// Spawns tasks that end at once.
async fn spawns() {
    loop {
        spawn("short", async {
            sleep(Duration::from_millis(1)).await;
        });
        sleep(Duration::from_millis(50)).await;
    }
}

async fn run(permits: Arc<Semaphore>) {
    spawn("wakes-itself", wakes_itself());
    spawn("never-yields", never_yields());
    spawn("lost-waker", loses_its_waker());
    for _ in 0..100 {
        tokio::spawn(sleeps());
    }
    for _ in 0..3 {
        spawn("waits-for-permit", waits_for(permits.clone()));
    }
    spawn("large", carries::<1500>()); // of 1,024 on a future is large
    spawn("boxed", carries::<20_000>()); // from 2,048 (16,384 in release builds) on the runtime moves it to the heap
    spawn("spawns", spawns());
}

fn main() {
    let address: SocketAddr = std::env::args().nth(1).expect("the address to listen on").parse().expect("it must be IP:PORT");
    console_subscriber::ConsoleLayer::builder()
        .server_addr(address)
        .publish_interval(Duration::from_millis(200))
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(4).enable_time().build().expect("no runtime");
    runtime.spawn(run(Arc::new(Semaphore::new(0))));
    // Not in run: tokio 1.47 lets the span of what spawned a blocking task live as long as that one, so it would look as if it never ended.
    let _inside = runtime.enter();
    Builder::new().name("blocking").spawn_blocking(|| std::thread::sleep(FOREVER)).expect("no task was spawned");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("standard input cannot be read");
    std::process::exit(0); // some tasks never end
}
