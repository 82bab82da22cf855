package e2e

import (
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/containervm/containervm/internal/vmtest"
)

// terminal is a command under a pseudo-terminal, and the one who types at it.
type terminal struct {
	t   *testing.T
	cmd *exec.Cmd
	f   *os.File

	mu      sync.Mutex
	unread  string
	changed chan struct{} // closed and replaced when unread grows or output ends
	ended   bool
}

// openTerminal starts the command on a terminal of 30 rows and 100 columns.
func openTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 100})
	if err != nil {
		t.Fatal(err)
	}
	term := &terminal{t: t, cmd: cmd, f: f, changed: make(chan struct{})}
	go term.read()
	t.Cleanup(func() { f.Close() }) // ends read
	return term
}

func (c *terminal) read() {
	buf := make([]byte, 4096)
	for {
		n, err := c.f.Read(buf)
		c.mu.Lock()
		c.unread += string(buf[:n])
		c.ended = err != nil // EIO once the other side is closed
		close(c.changed)
		c.changed = make(chan struct{})
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// expect waits until the output that no earlier expect has seen contains text. What is typed is echoed: a text that is
// to come from the command is typed with quotes in it (ec”ho).
func (c *terminal) expect(text string) {
	c.t.Helper()
	limit := time.After(3 * time.Minute)
	for {
		c.mu.Lock()
		unread, changed, ended := c.unread, c.changed, c.ended
		if _, after, ok := strings.Cut(unread, text); ok {
			c.unread = after
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
		if ended {
			c.t.Fatalf("the terminal's output ended without %q: %q", text, unread)
		}
		select {
		case <-changed:
		case <-limit:
			c.t.Fatalf("the terminal never showed %q: %q", text, unread)
		}
	}
}

func (c *terminal) send(text string) {
	c.t.Helper()
	if _, err := c.f.WriteString(text); err != nil {
		c.t.Fatalf("cannot type %q: %v", text, err)
	}
}

// exit waits for the command's end and checks its exit status.
func (c *terminal) exit(code int) {
	c.t.Helper()
	_ = c.cmd.Wait() // its error is the status
	if got := c.cmd.ProcessState.ExitCode(); got != code {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.t.Errorf("%v: exit %d, want %d; last output %q", c.cmd.Args[1:], got, code, c.unread)
	}
}

// Keys, as a terminal in raw mode sends them.
const (
	ctrlC  = "\x03"
	detach = "\x10\x11" // Ctrl-P Ctrl-Q
)

func testTerminal(client string) func(*testing.T, *vmtest.Host) {
	return func(t *testing.T, h *vmtest.Host) {
		program := client
		if client == "cvm" {
			program = h.CVMPath()
		}
		term := openTerminal(t, h.Command(t.Context(), program, "run", "-it", "--name", "tty", image, "sh"))
		term.expect("# ")
		term.send("stty size; tty\n")
		term.expect("30 100")
		term.expect("/dev/")

		if err := pty.Setsize(term.f, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
			t.Fatal(err)
		}
		term.send("until stty size | grep -q '40 120'; do :; done; echo re''sized\n")
		term.expect("resized")

		// The process that says so is the one that sleeps: what a shell's child gets between fork and exec, its handler of the
		// shell's takes and forgets.
		term.send("sh -c 'echo sle\"\"eping; exec sleep 1000'\n")
		term.expect("sleeping")
		term.send(ctrlC)
		term.send("echo status=$?\n")
		term.expect("status=130")

		term.send(detach)
		term.exit(0)
		equal(t, "State.Running", inspect(t, h, "tty", ".State.Running"), "true")

		again := openTerminal(t, h.Command(t.Context(), program, "attach", "tty"))
		again.send("echo ba''ck\n")
		again.expect("back")
		again.send("exit 7\n")
		again.exit(7)
		equal(t, "State.ExitCode", inspect(t, h, "tty", ".State.ExitCode"), "7")
	}
}

func testExecTerminal(t *testing.T, h *vmtest.Host) {
	h.MustDocker(t, "run", "-d", "--name", "ex", image, "sleep", "1000")
	term := openTerminal(t, h.Command(t.Context(), "docker", "exec", "-it", "-e", "WHO=me", "ex", "sh"))
	term.expect("# ")
	term.send("echo $WHO; stty size\n")
	term.expect("me")
	term.expect("30 100")
	if err := pty.Setsize(term.f, &pty.Winsize{Rows: 41, Cols: 121}); err != nil {
		t.Fatal(err)
	}
	term.send("until stty size | grep -q '41 121'; do :; done; echo re''sized\n")
	term.expect("resized")
	term.send("exit 9\n")
	term.exit(9)
}
