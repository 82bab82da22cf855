package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestMain fails when a session left a goroutine behind.
func TestMain(m *testing.M) {
	code := m.Run()
	if left := leftovers(); code == 0 && left != "" {
		os.Stderr.WriteString("goroutines left behind:\n" + left + "\n")
		code = 1
	}
	os.Exit(code)
}

// leftovers are the goroutines of sessions that still run after a while.
func leftovers() string {
	var left []string
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); runtime.Gosched() {
		buf := make([]byte, 1<<20)
		left = nil
		for _, g := range strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(g, "yamux") || strings.Contains(g, "ttrpc") || strings.Contains(g, "tether/link.(") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
	}
	return strings.Join(left, "\n\n")
}

// testContext bounds a test that would hang.
func testContext(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// overEach runs a test over a socket pair and over a net.Pipe.
func overEach(t *testing.T, test func(t *testing.T, f *linktest.Tether, c *link.Client)) {
	for name, dial := range map[string]func(*linktest.Tether, ...linktest.Fault) net.Conn{
		"socketpair": (*linktest.Tether).Dial, "pipe": (*linktest.Tether).DialPipe,
	} {
		t.Run(name, func(t *testing.T) {
			f := linktest.NewTether(t)
			c, err := link.NewClient(testContext(t), dial(f))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			test(t, f, c)
		})
	}
}

func exec(t *testing.T, c *link.Client, session string, p *tetherv1.Process) {
	t.Helper()
	resp, err := c.Tether().Exec(testContext(t), &tetherv1.ExecRequest{
		Session: session, Process: p, AttachStdout: true, AttachStderr: true,
	})
	if err != nil || resp.Failure != nil {
		t.Fatalf("exec: %v, %v", resp.GetFailure(), err)
	}
}

func openOutput(t *testing.T, c *link.Client, session string, stream link.RecordStream, offset int64) *link.OutputStream {
	t.Helper()
	out, err := c.OpenOutput(testContext(t), session, stream, offset)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close() })
	return out
}

func wait(t *testing.T, c *link.Client, session string) *tetherv1.Exit {
	t.Helper()
	resp, err := c.Tether().Wait(testContext(t), &tetherv1.WaitRequest{Session: session})
	if err != nil {
		t.Fatal(err)
	}
	return resp.Exit
}

func TestExec(t *testing.T) {
	overEach(t, func(t *testing.T, _ *linktest.Tether, c *link.Client) {
		exec(t, c, "e1", &tetherv1.Process{Args: []string{"/bin/exit", "7"}})
		stderr, err := io.ReadAll(openOutput(t, c, "e1", link.StreamStderr, -1))
		if string(stderr) != "bye\n" || err != nil {
			t.Errorf("stderr %q, %v", stderr, err)
		}
		stdout, err := io.ReadAll(openOutput(t, c, "e1", link.StreamStdout, 0))
		if len(stdout) != 0 || err != nil {
			t.Errorf("stdout %q, %v", stdout, err)
		}
		if exit := wait(t, c, "e1"); exit.Code != 7 {
			t.Errorf("exit %v, want code 7", exit)
		}
	})
}

// TestMuch moves enough to need windows many times over, both ways.
func TestMuch(t *testing.T) {
	overEach(t, func(t *testing.T, _ *linktest.Tether, c *link.Client) {
		exec(t, c, "c", &tetherv1.Process{Args: []string{"cat"}, Stdin: true})
		in, err := c.OpenInput(testContext(t), "c")
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		want := linktest.Pattern(0, 5<<20+17)
		go func() {
			if _, err := in.Write(want); err != nil {
				t.Errorf("write: %v", err)
			}
			if err := in.CloseWrite(); err != nil {
				t.Errorf("close: %v", err)
			}
		}()
		got, err := io.ReadAll(openOutput(t, c, "c", link.StreamStdout, -1))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes came back, %v; want the %d sent", len(got), err, len(want))
		}
	})
}

// TestDetach shows that Close leaves the process's input open and CloseWrite ends it.
func TestDetach(t *testing.T) {
	overEach(t, func(t *testing.T, f *linktest.Tether, c *link.Client) {
		exec(t, c, "c", &tetherv1.Process{Args: []string{"cat"}, Stdin: true})
		out := openOutput(t, c, "c", link.StreamStdout, -1)
		for _, part := range []string{"one\n", "two\n"} {
			in, err := c.OpenInput(testContext(t), "c")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(in, part); err != nil {
				t.Fatal(err)
			}
			in.Close()
			if _, err := in.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Errorf("write after Close: %v", err)
			}
			got := make([]byte, len(part))
			if _, err := io.ReadFull(out, got); err != nil || string(got) != part {
				t.Fatalf("read %q, %v", got, err)
			}
		}
		if exit := f.Process("c").Exit(); exit != nil {
			t.Fatalf("detaching ended the process: %v", exit)
		}
		in, err := c.OpenInput(testContext(t), "c")
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		if err := in.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(out); len(rest) != 0 || err != nil {
			t.Errorf("rest %q, %v", rest, err)
		}
		wait(t, c, "c")
	})
}

// TestInputEnds shows that a writer learns that its process is gone.
func TestInputEnds(t *testing.T) {
	overEach(t, func(t *testing.T, f *linktest.Tether, c *link.Client) {
		exec(t, c, "s", &tetherv1.Process{Args: []string{"sleep"}, Stdin: true})
		in, err := c.OpenInput(testContext(t), "s")
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		failed := make(chan error, 1)
		go func() {
			for {
				if _, err := in.Write(linktest.Pattern(0, 1<<20)); err != nil {
					failed <- err
					return
				}
			}
		}()
		if _, err := c.Tether().Signal(testContext(t), &tetherv1.SignalRequest{Session: "s", Signal: 15}); err != nil {
			t.Fatal(err)
		}
		if err := <-failed; err == nil || errors.Is(err, link.ErrLost) {
			t.Errorf("write to a process that ended: %v", err)
		}
		if exit := wait(t, c, "s"); exit.Code != 143 || exit.Signal != 15 {
			t.Errorf("exit %v, want 143 by signal 15", exit)
		}
	})
}

func TestRefusals(t *testing.T) {
	f := linktest.NewTether(t)
	c := f.Client()
	f.Start(&tetherv1.Process{Args: []string{"sleep"}})
	ctx := testContext(t)
	_, noSession := c.OpenOutput(ctx, "nobody", link.StreamStdout, 0)
	_, noInput := c.OpenInput(ctx, link.MainSession)
	_, malformed := c.OpenInput(ctx, "a/b")
	_, noTTY := c.Tether().Resize(ctx, &tetherv1.ResizeRequest{Session: link.MainSession})
	for what, c := range map[string]struct {
		err   error
		code  codes.Code
		class error
	}{
		"no session": {noSession, codes.NotFound, errdefs.ErrNotFound},
		"no input":   {noInput, codes.FailedPrecondition, errdefs.ErrFailedPrecondition},
		"malformed":  {malformed, codes.Unknown, nil}, // our own error, not an answer
		"no tty":     {noTTY, codes.FailedPrecondition, errdefs.ErrFailedPrecondition},
	} {
		if c.err == nil || status.Code(c.err) != c.code {
			t.Errorf("%s: %v, want code %v", what, c.err, c.code)
		}
		if c.class != nil && !errors.Is(c.err, c.class) {
			t.Errorf("%s: %v, want class %v", what, c.err, c.class)
		}
	}
}

// TestResume loses the connection within the output, and reads on from there over another one.
func TestResume(t *testing.T) {
	f := linktest.NewTether(t)
	const size = 3 << 20
	f.Start(&tetherv1.Process{Args: []string{"true"}})
	first := f.Client(linktest.CutAfter(1 << 20))
	exec(t, first, "y", &tetherv1.Process{Args: []string{"yes", "3145728"}})
	got, err := io.ReadAll(openOutput(t, first, "y", link.StreamStdout, 0))
	if !errors.Is(err, link.ErrLost) {
		t.Fatalf("the cut came as %v after %d bytes", err, len(got))
	}
	<-first.Done()
	rest := openOutput(t, f.Client(), "y", link.StreamStdout, int64(len(got)))
	if rest.Offset() != int64(len(got)) || rest.Dropped() != 0 {
		t.Errorf("resumed at %d with %d dropped, want %d and 0", rest.Offset(), rest.Dropped(), len(got))
	}
	tail, err := io.ReadAll(rest)
	if err != nil || !bytes.Equal(append(got, tail...), linktest.Pattern(0, size)) {
		t.Errorf("%d and %d bytes, %v: not what was written", len(got), len(tail), err)
	}
}

// TestDropped reads from an offset that the ring no longer has.
func TestDropped(t *testing.T) {
	f := linktest.NewTether(t)
	<-f.Start(&tetherv1.Process{Args: []string{"yes", "200000"}}).Done()
	out := openOutput(t, f.Client(), link.MainSession, link.StreamStdout, 1000)
	if want := int64(200000 - linktest.RingSize); out.Offset() != want || out.Dropped() != want-1000 {
		t.Errorf("offset %d with %d dropped, want %d and %d", out.Offset(), out.Dropped(), want, want-1000)
	}
	got, err := io.ReadAll(out)
	if err != nil || !bytes.Equal(got, linktest.Pattern(out.Offset(), linktest.RingSize)) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

// TestFallBehind reads from a process that writes faster than its reader takes: every byte is read or told as missing.
func TestFallBehind(t *testing.T) {
	f := linktest.NewTether(t)
	begin := make(chan struct{})
	const size = 8 << 20
	f.Program("late", func(p *linktest.Process) *tetherv1.Exit {
		<-begin
		for at := 0; at < size; at += linktest.RingSize {
			_, _ = p.Stdout.Write(linktest.Pattern(int64(at), linktest.RingSize))
		}
		return linktest.Exited(0)
	})
	p := f.Start(&tetherv1.Process{Args: []string{"late"}})
	out := openOutput(t, f.Client(), link.MainSession, link.StreamStdout, 0)
	close(begin)
	<-p.Done() // more than the stream's window was written while nobody read
	buf := make([]byte, 1000)
	read := int64(0)
	for {
		n, err := out.Read(buf)
		if !bytes.Equal(buf[:n], linktest.Pattern(out.Next()-int64(n), n)) {
			t.Fatalf("wrong bytes before offset %d", out.Next())
		}
		if read += int64(n); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if out.Dropped() == 0 || read+out.Dropped() != size || out.Next() != size {
		t.Errorf("%d bytes read, %d dropped, next is %d, of %d", read, out.Dropped(), out.Next(), size)
	}
}

// TestLose shows that every wait ends with the connection, and says so.
func TestLose(t *testing.T) {
	overEach(t, func(t *testing.T, f *linktest.Tether, c *link.Client) {
		f.Start(&tetherv1.Process{Args: []string{"sleep"}, Stdin: true})
		ctx := testContext(t)
		out := openOutput(t, c, link.MainSession, link.StreamStdout, 0)
		in, err := c.OpenInput(ctx, link.MainSession)
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		waits := map[string]func() error{
			"read": func() error { _, err := out.Read(make([]byte, 1)); return err },
			"wait": func() error {
				_, err := c.Tether().Wait(ctx, &tetherv1.WaitRequest{Session: link.MainSession})
				return err
			},
			"write": func() error {
				for {
					if _, err := in.Write(make([]byte, 1<<16)); err != nil {
						return err
					}
				}
			},
		}
		var work sync.WaitGroup
		for what, wait := range waits {
			work.Go(func() {
				if err := wait(); !errors.Is(err, link.ErrLost) {
					t.Errorf("%s ended with %v", what, err)
				}
			})
		}
		f.Lose()
		work.Wait()
		<-c.Done()
		if _, err := c.OpenInput(ctx, link.MainSession); !errors.Is(err, link.ErrLost) {
			t.Errorf("open on a lost connection: %v", err)
		}
		if f.Process(link.MainSession).Exit() != nil {
			t.Error("the process ended with the connection")
		}
	})
}

// TestCutAnywhere ends the connection at each byte that the tether sends.
func TestCutAnywhere(t *testing.T) {
	f := linktest.NewTether(t)
	f.Start(&tetherv1.Process{Args: []string{"echo", "hello"}})
	for n := 1; ; n++ {
		got, err := readMain(testContext(t), f.Dial(linktest.CutAfter(n)))
		if err == nil {
			if got != "hello\n" || n < 50 {
				t.Errorf("cut after %d bytes: %q with no error", n, got)
			}
			return
		}
		if !strings.HasPrefix("hello\n", got) {
			t.Errorf("cut after %d bytes: %q, %v", n, got, err)
		}
	}
}

func readMain(ctx context.Context, conn net.Conn) (string, error) {
	c, err := link.NewClient(ctx, conn)
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := c.Tether().Info(ctx, &tetherv1.InfoRequest{}); err != nil {
		return "", err
	}
	out, err := c.OpenOutput(ctx, link.MainSession, link.StreamStdout, 0)
	if err != nil {
		return "", err
	}
	got, err := io.ReadAll(out)
	return string(got), err
}

// TestStalled shows that contexts and Close end waits for a guest that is paused, and that its session survives.
func TestStalled(t *testing.T) {
	f := linktest.NewTether(t)
	f.Start(&tetherv1.Process{Args: []string{"sleep"}, Stdin: true})
	gate := linktest.NewGate()
	c := f.Client(gate.Stall)
	out := openOutput(t, c, link.MainSession, link.StreamStdout, 0)
	gate.Shut()
	ctx, cancel := context.WithCancel(t.Context())
	var work sync.WaitGroup
	for what, wait := range map[string]func() error{
		"open": func() error { _, err := c.OpenInput(ctx, link.MainSession); return err },
		"info": func() error { _, err := c.Tether().Info(ctx, &tetherv1.InfoRequest{}); return err },
	} {
		work.Go(func() {
			if err := wait(); !errors.Is(err, context.Canceled) {
				t.Errorf("%s ended with %v", what, err)
			}
		})
	}
	work.Go(func() {
		if _, err := out.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read ended with %v", err)
		}
	})
	cancel()
	out.Close()
	work.Wait()
	gate.Open()
	if _, err := c.Tether().Info(testContext(t), &tetherv1.InfoRequest{}); err != nil {
		t.Errorf("the session did not survive the pause: %v", err)
	}
}

func TestStreamLimit(t *testing.T) {
	f := linktest.NewTether(t)
	f.Start(&tetherv1.Process{Args: []string{"sleep"}})
	c := f.Client()
	var last *link.OutputStream
	for range link.MaxStreams {
		last = openOutput(t, c, link.MainSession, link.StreamStdout, 0)
	}
	_, err := c.OpenOutput(testContext(t), link.MainSession, link.StreamStdout, 0)
	if status.Code(err) != codes.ResourceExhausted {
		t.Fatalf("one stream too many: %v", err)
	}
	last.Close()
	for { // the tether frees the slot when it has seen the close
		out, err := c.OpenOutput(testContext(t), link.MainSession, link.StreamStdout, 0)
		if err == nil {
			out.Close()
			return
		}
		if status.Code(err) != codes.ResourceExhausted {
			t.Fatal(err)
		}
	}
}
