import java.util.ArrayList;
import java.util.List;

/** What Pyroscope's Java agent profiles in the test of ingest that runs it: Busy SECONDS. */
public class Busy {
    static int busyWork(int n) {
        List<byte[]> kept = new ArrayList<>();
        for (int i = 0; i < n; i++) {
            kept.add(new byte[256]);
        }
        return kept.size();
    }

    public static void main(String[] args) throws InterruptedException {
        long until = System.nanoTime() + Long.parseLong(args[0]) * 1_000_000_000L;
        Object lock = new Object();
        Runnable work = () -> {
            int done = 0;
            while (System.nanoTime() < until) {
                synchronized (lock) {
                    done += busyWork(20_000);
                }
            }
            System.out.println(done);
        };
        Thread other = new Thread(work);
        other.start();
        work.run();
        other.join();
    }
}
