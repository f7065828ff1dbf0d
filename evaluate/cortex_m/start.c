/* From reset to main: memory is loaded by the emulator, .bss is cleared here. */
#include <stdint.h>
#include <stdlib.h>

extern uint32_t __bss_start__[], __bss_end__[], __stack_top__[];
extern void initialise_monitor_handles(void);
extern int main(void);

void reset(void);
void _init(void);
void _fini(void);

/* the C library calls them; there is nothing to do */
void _init(void)
{
}

void _fini(void)
{
}

static void stop(void)
{
    abort();
}

void reset(void)
{
    for (uint32_t *word = __bss_start__; word < __bss_end__; ++word)
        *word = 0;
#if defined(__ARM_FEATURE_MVE) || defined(__ARM_FP)
    *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: the coprocessor of floats and vectors */
#endif
#if defined(__ARM_ARCH_6M__)
    *(volatile uint32_t *)0xE000ED14 |= 1u << 3; /* CCR: unaligned words fault, as they do on the device; libraries for others use them */
#endif
    initialise_monitor_handles();
    exit(main());
}

__attribute__((section(".vectors"), used)) static void (*const vectors[16])(void) = {
    (void (*)(void))__stack_top__, reset, stop, stop, stop, stop, stop,
};
