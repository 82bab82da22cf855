package forkpoint

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// clientVariable has the test's program be a client of the file that it names.
const clientVariable = "CVM_TEST_GENERATION"

func TestMain(m *testing.M) {
	if path := os.Getenv(clientVariable); path != "" {
		if err := client(path); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// client maps the file, waits for changes of it by poll(2), and says what it saw: mapped, read, and whether there is more to read.
func client(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	page, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for timeout := 0; ; timeout = -1 {
		fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		for {
			if _, err = unix.Poll(fds, timeout); err != unix.EINTR {
				break
			}
		}
		text := make([]byte, 9)
		n, _ := f.ReadAt(text, 0)
		again := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLIN}}
		_, _ = unix.Poll(again, 0)
		other, err := os.ReadFile(path)
		if err != nil || n != 8 || !bytes.Equal(other, text[:n]) {
			return fmt.Errorf("%d bytes %v; %v, %v", n, text, other, err)
		}
		fmt.Println(fds[0].Revents&unix.POLLIN != 0, binary.NativeEndian.Uint64(page), binary.NativeEndian.Uint64(text), again[0].Revents)
	}
}

// TestGeneration: the file is read, mapped and polled by a program that knows nothing of its tether.
func TestGeneration(t *testing.T) {
	if _, err := os.Stat("/dev/fuse"); err != nil || os.Getuid() != 0 {
		t.Skip("needs root and /dev/fuse; try: sudo go test, modprobe fuse")
	}
	path := filepath.Join(t.TempDir(), "generation")
	g, err := MountGeneration(path)
	must(t, err)
	t.Cleanup(func() {
		must(t, g.device.Close()) // nobody waits for an answer then
		must(t, unix.Unmount(path, unix.MNT_DETACH))
	})
	if told := g.Set(1); told != 0 {
		t.Errorf("%d told of a file that nobody has", told)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), clientVariable+"="+path)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	lines := bufio.NewScanner(out)
	for value := uint64(1); value < 4; value++ {
		if value > 1 {
			g.awaitWaiter()
			if told := g.Set(value); told != 1 {
				t.Errorf("%d told", told)
			}
		}
		if want := fmt.Sprintln(value > 1, value, value, 0); !lines.Scan() || lines.Text()+"\n" != want {
			t.Fatalf("the client says %q, want %q", lines.Text(), want)
		}
	}
}

// awaitWaiter returns when a client waits for a change.
func (g *Generation) awaitWaiter() {
	for {
		g.mu.Lock()
		for _, o := range g.opened {
			if o.waiter != 0 {
				g.mu.Unlock()
				return
			}
		}
		g.mu.Unlock()
		runtime.Gosched()
	}
}

// TestGenerationIsBounded: who opens it without end is refused.
func TestGenerationIsBounded(t *testing.T) {
	g := newGeneration()
	open := request(opOpen)
	for range maxOpen {
		g.answer(open)
	}
	if answer := g.answer(open); int32(binary.NativeEndian.Uint32(answer[4:])) != -int32(unix.ENFILE) || len(g.opened) != maxOpen {
		t.Errorf("answer %v, %d open", answer, len(g.opened))
	}
	g.answer(request(opRelease, 7))
	if g.answer(open); len(g.opened) != maxOpen {
		t.Errorf("%d open after one was closed", len(g.opened))
	}
}

func request(op uint32, body ...uint64) []byte {
	b := make([]byte, headerIn)
	binary.NativeEndian.PutUint32(b[4:], op)
	for _, v := range body {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return b
}

func FuzzGeneration(f *testing.F) {
	for _, op := range []uint32{opInit, opGetattr, opOpen, opFlush, opInterrupt, 1, 16} {
		f.Add(request(op))
	}
	f.Add(request(opRead, 1, 0, 8))
	f.Add(request(opPoll, 1, 5, 1))
	f.Add(request(opRelease, 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		g := newGeneration()
		g.answer(request(opOpen))
		answer := g.answer(data)
		if answer != nil && (len(answer) < headerOut || int(binary.NativeEndian.Uint32(answer)) != len(answer)) {
			t.Errorf("answer %v", answer)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
