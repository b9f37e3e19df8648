// Primes counts primes for as many seconds as its argument says, 10 without one.
#include <cstdio>
#include <cstdlib>
#include <ctime>

__attribute__((noinline)) bool is_prime(unsigned n) {
    for (unsigned d = 2; d * d <= n; d++)
        if (n % d == 0) return false;
    return true;
}

int main(int argc, char **argv) {
    const std::clock_t until = std::clock() + CLOCKS_PER_SEC * (argc > 1 ? std::atoi(argv[1]) : 10);
    unsigned n = 1, primes = 0;
    while (std::clock() < until)
        for (int i = 0; i < 10000; i++) primes += is_prime(++n);
    std::printf("%u primes up to %u\n", primes, n);
}
