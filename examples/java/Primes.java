/** Counts primes for as many seconds as its argument says, for ever without one. It knows nothing of profiles. */
public class Primes {
    static boolean isPrime(long n) {
        for (long d = 2; d * d <= n; d++) {
            if (n % d == 0) {
                return false;
            }
        }
        return true;
    }

    public static void main(String[] args) {
        long until = args.length == 0 ? Long.MAX_VALUE : System.currentTimeMillis() + 1000 * Long.parseLong(args[0]);
        long n = 1, primes = 0;
        while (System.currentTimeMillis() < until) {
            for (int i = 0; i < 1000; i++) {
                primes += isPrime(++n) ? 1 : 0;
            }
        }
        System.out.println(primes + " primes up to " + n);
    }
}
