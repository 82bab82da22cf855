package initramfs

// Content is what a containerVM boots from: init as /init, started by the kernel as PID 1, and the console that the
// kernel opens as its standard streams before anything is mounted (Linux init/main.c, console_on_rootfs). The tether
// makes every other directory itself.
func Content(init []byte) []Entry {
	return []Entry{
		{Name: "dev", Mode: ModeDir | 0o755},
		{Name: "dev/console", Mode: ModeChar | 0o600, Major: 5, Minor: 1},
		{Name: "init", Mode: ModeRegular | 0o755, Data: init},
	}
}
