// PID 1 of the machines of the benchmark: it answers on the console, by the byte. No libc, so that next to nothing runs
// between the resumption of a machine and its answer.
//
//   p   answers "p"
//   e   starts /busybox echo hello, which answers by itself
//   d   and four digits: writes to that many MiB of memory, which stay in use; answers "d"

enum { SYS_read, SYS_write, SYS_mmap = 9, SYS_ioctl = 16, SYS_vfork = 58, SYS_execve, SYS_exit, SYS_wait4 };
enum { TCGETS = 0x5401, TCSETS, ICANON = 2, ECHO = 8, OPOST = 1, ICRNL = 0x100 };

static inline long call(long n, long a, long b, long c, long d, long e, long f)
{
	long r;
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return r;
}

static void say(const char *text, long n) { call(SYS_write, 1, (long)text, n, 0, 0, 0); }

static char byte(void)
{
	char c = 0;
	call(SYS_read, 0, (long)&c, 1, 0, 0, 0);
	return c;
}

// The terminal gives each byte at once and adds none.
static void raw(void)
{
	struct { unsigned in, out, control, local; unsigned char line, cc[19]; } t;
	call(SYS_ioctl, 0, TCGETS, (long)&t, 0, 0, 0);
	t.in &= ~ICRNL;
	t.out &= ~OPOST;
	t.local &= ~(ICANON | ECHO);
	call(SYS_ioctl, 0, TCSETS, (long)&t, 0, 0, 0);
}

static void echo(void)
{
	static const char *const argv[] = {"/busybox", "echo", "hello", 0};
	static const char *const envp[] = {0};
	// The child of vfork must not return through this frame, so it is all in one function, inlined.
	long pid = call(SYS_vfork, 0, 0, 0, 0, 0, 0);
	if (pid == 0) {
		call(SYS_execve, (long)argv[0], (long)argv, (long)envp, 0, 0, 0);
		call(SYS_exit, 127, 0, 0, 0, 0, 0);
	}
	call(SYS_wait4, pid, 0, 0, 0, 0, 0);
}

// A word in each page, never twice the same, makes it a page that neither zero detection nor merging can skip.
static void dirty(void)
{
	long pages = 0;
	for (int i = 0; i < 4; i++)
		pages = pages * 10 + (byte() - '0');
	pages *= 256;
	unsigned long *memory = (void *)call(SYS_mmap, 0, pages * 4096, 3, 0x22, -1, 0);
	if ((long)memory < 0 && (long)memory > -4096)
		return;
	for (long i = 0; i < pages; i++)
		memory[i * 512] = 0x9e3779b97f4a7c15UL * (i + 1);
	say("d", 1);
}

__attribute__((force_align_arg_pointer, noreturn)) void _start(void)
{
	raw();
	say("ready\n", 6);
	for (;;)
		switch (byte()) {
		case 'p': say("p", 1); break;
		case 'e': echo(); break;
		case 'd': dirty(); break;
		}
}
