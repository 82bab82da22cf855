package supervisor

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/internal/frames"
	"github.com/containervm/containervm/hostd-bridge/internal/frames/framestest"
)

const (
	ownMAC   = "02:00:00:00:00:01"
	otherMAC = "02:00:00:00:00:02"
)

// wired is a card and QEMU's end of it.
func wired(t testing.TB, admitted bool) (*card, *os.File) {
	t.Helper()
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	c := newCard(0, ours, admitted, dialTest, slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})))
	t.Cleanup(func() { theirs.Close(); c.close() })
	return c, theirs
}

// dialTest does the daemon's part.
func dialTest(ctx context.Context, _ int, want Card) (*net.UnixConn, error) {
	return frames.Dial(ctx, filepath.Dir(want.Frames), frames.Hello{VM: "vm-1", MAC: want.MAC})
}

// ether is a frame of n bytes that says what it is.
func ether(text string, n int) []byte {
	f := make([]byte, max(n, frames.HeaderLen+len(text)))
	copy(f[frames.HeaderLen:], text)
	return f
}

// sends writes frames as QEMU does.
func sends(t testing.TB, qemu *os.File, all ...[]byte) {
	t.Helper()
	for _, f := range all {
		if _, err := qemu.Write(frames.Append(nil, f)); err != nil {
			t.Error(err)
			return
		}
	}
}

// receives reads one frame as QEMU does.
func receives(t testing.TB, qemu *os.File) []byte {
	t.Helper()
	var length [4]byte
	_, err := io.ReadFull(qemu, length[:])
	f := make([]byte, min(frames.Max, binary.BigEndian.Uint32(length[:])))
	if err == nil {
		_, err = io.ReadFull(qemu, f)
	}
	if err != nil {
		t.Error(err)
	}
	return f
}

func joinTo(h *framestest.Hub, mac string) Card {
	return Card{MAC: mac, Connected: true, Frames: h.Socket}
}

// awaitJoined waits until the switch knows the card and the card knows that.
func awaitJoined(t *testing.T, h *framestest.Hub, c *card) {
	t.Helper()
	want, _ := c.current()
	h.AwaitCard(want.MAC)
	for deadline := time.Now().Add(time.Minute); c.conn.Load() == nil; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the card does not see that it has joined")
		}
	}
}

// heard waits until the hub has heard what text begins.
func heard(h *framestest.Hub, mac, text string) {
	h.Await(text+" is heard", func() bool {
		for _, f := range h.Heard(mac) {
			if strings.HasPrefix(string(f[frames.HeaderLen:]), text) {
				return true
			}
		}
		return false
	})
}

func TestCardPassesFrames(t *testing.T) {
	hub := framestest.New(t)
	c, qemu := wired(t, true)
	c.set(joinTo(hub, ownMAC))
	awaitJoined(t, hub, c)
	if cards := hub.Cards(); cards[0].VM != "vm-1" {
		t.Errorf("the card says %+v", cards)
	}
	var want [][]byte
	for i, n := range []int{0, 60, 1514, frames.Max, frames.HeaderLen} {
		want = append(want, ether(string(rune('a'+i)), n))
	}
	go sends(t, qemu, want...)
	hub.Await("all frames come", func() bool { return len(hub.Heard(ownMAC)) == len(want) })
	for i, f := range hub.Heard(ownMAC) {
		if !bytes.Equal(f, want[i]) {
			t.Errorf("frame %d has %d bytes of %d, or others", i, len(f), len(want[i]))
		}
	}
	go func() {
		for _, f := range want {
			hub.Send(f)
		}
	}()
	for i := range want {
		if f := receives(t, qemu); !bytes.Equal(f, want[i]) {
			t.Errorf("QEMU's frame %d has %d bytes of %d, or others", i, len(f), len(want[i]))
		}
	}
}

// TestCardWithoutASwitch: QEMU is read whatever becomes of its frames.
func TestCardWithoutASwitch(t *testing.T) {
	hub := framestest.New(t)
	hub.Stop()
	for name, want := range map[string]Card{
		"leads nowhere": {MAC: ownMAC, Connected: true},
		"switch away":   joinTo(hub, ownMAC),
		"no directory":  {MAC: ownMAC, Connected: true, Frames: filepath.Join(t.TempDir(), "none", frames.Socket)},
	} {
		t.Run(name, func(t *testing.T) {
			c, qemu := wired(t, true)
			c.set(want)
			for range 64 { // sockets hold less
				sends(t, qemu, ether("lost", frames.Max))
			}
		})
	}
}

// TestCardBeforeTheReceipt: nothing that QEMU sends before it reaches the switch, what the switch sends is dropped, and what comes
// after it passes, whole.
func TestCardBeforeTheReceipt(t *testing.T) {
	for _, flood := range []int{0, 1, 300} {
		hub := framestest.New(t)
		c, qemu := wired(t, false)
		c.set(joinTo(hub, ownMAC))
		awaitJoined(t, hub, c)
		for range flood {
			hub.Send(ether("too early", frames.Max)) // sockets hold few of these
			sends(t, qemu, ether("old identity", 1514))
		}
		c.admit()
		sends(t, qemu, ether("new", 0))
		heard(hub, ownMAC, "new")
		if all := hub.Heard(ownMAC); len(all) != 1 {
			t.Errorf("%d frames of before the receipt: %q", len(all)-1, all[0])
		}
		hub.Send(ether("welcome", 0))
		early := 0
		for !bytes.Contains(receives(t, qemu), []byte("welcome")) && !t.Failed() {
			early++ // it was still on its way
		}
		if early > 10 {
			t.Errorf("QEMU got %d frames that came before the receipt", early)
		}
		c.admit() // again is nothing
	}
}

// TestCardAdmittedBeforeItIsConnected: a child's spare card that becomes one later.
func TestCardAdmittedBeforeItIsConnected(t *testing.T) {
	hub := framestest.New(t)
	c, qemu := wired(t, false)
	c.admit()
	c.set(joinTo(hub, ownMAC))
	awaitJoined(t, hub, c)
	sends(t, qemu, ether("new", 0))
	heard(hub, ownMAC, "new")
}

// TestSwitchComesAndGoes: the card joins again, and frames are whole.
func TestSwitchComesAndGoes(t *testing.T) {
	hub := framestest.New(t)
	c, qemu := wired(t, true)
	c.set(joinTo(hub, ownMAC))
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				sends(t, qemu, ether("going out", 1514))
			}
		}
	}()
	reading := make(chan struct{})
	go func() {
		defer close(reading)
		for {
			if f := receives(t, qemu); bytes.Contains(f, []byte("last")) || t.Failed() {
				return
			} else if !bytes.Contains(f, []byte("coming in")) {
				t.Errorf("half a frame: %q", f)
			}
		}
	}()
	for range 5 {
		awaitJoined(t, hub, c)
		for range 50 {
			hub.Send(ether("coming in", 1514))
		}
		heard(hub, ownMAC, "going out")
		hub.Stop()
		hub.Start()
	}
	close(stop)
	<-done
	awaitJoined(t, hub, c)
	hub.Send(ether("last", 0))
	<-reading
}

// TestCardMoves: a card that is changed leaves its network and joins the other, also while it is full of frames.
func TestCardMoves(t *testing.T) {
	one, other := framestest.New(t), framestest.New(t)
	c, qemu := wired(t, true)
	for i := range 3 {
		c.set(joinTo(one, ownMAC))
		awaitJoined(t, one, c)
		c.set(joinTo(other, otherMAC))
		awaitJoined(t, other, c)
		one.AwaitNone()
		moved := fmt.Sprint("moved ", i) // one that was heard before says nothing of this one
		sends(t, qemu, ether(moved, 0))
		heard(other, otherMAC, moved)
		c.set(Card{})
		other.AwaitNone()
	}
	if n := len(one.Heard(ownMAC)); n > 0 {
		t.Errorf("%d frames in the wrong network", n)
	}
}

// TestSwitchThatStandsStill: a switch that takes nothing is left, and QEMU is read all the time.
func TestSwitchThatStandsStill(t *testing.T) {
	socket := filepath.Join(t.TempDir(), frames.Socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, qemu := wired(t, true)
	c.set(Card{MAC: ownMAC, Connected: true, Frames: socket})
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, _, err := frames.ReadHello(first); err != nil {
		t.Fatal(err)
	}
	for range 64 { // more than all sockets on the way hold
		sends(t, qemu, ether("never read", frames.Max))
	}
	second, err := l.Accept() // it tries again
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

// TestSwitchSendsWhatIsNoFrame: the card leaves it, and QEMU gets none of it.
func TestSwitchSendsWhatIsNoFrame(t *testing.T) {
	socket := filepath.Join(t.TempDir(), frames.Socket)
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, qemu := wired(t, true)
	c.set(Card{MAC: ownMAC, Connected: true, Frames: socket})
	good := frames.Append(nil, ether("good", 0))
	for _, bad := range [][]byte{{0, 0, 0, 0}, {0xff, 0xff, 0xff, 0xff}, good[:10]} {
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := frames.ReadHello(conn); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(append(bytes.Clone(good), bad...)); err != nil {
			t.Fatal(err)
		}
		conn.(*net.UnixConn).CloseWrite()
		if f := receives(t, qemu); !bytes.Contains(f, []byte("good")) {
			t.Errorf("QEMU got %q", f)
		}
		if _, err := io.Copy(io.Discard, conn); err != nil { // until the card leaves
			t.Error(err)
		}
		conn.Close()
	}
}

// TestCardThatSendsNoFrames: it is not heard any more, is still read, and hears.
func TestCardThatSendsNoFrames(t *testing.T) {
	for _, admitted := range []bool{true, false} {
		hub := framestest.New(t)
		c, qemu := wired(t, admitted)
		c.set(joinTo(hub, ownMAC))
		awaitJoined(t, hub, c)
		if _, err := qemu.Write([]byte{0, 0, 0, 1, 7}); err != nil {
			t.Fatal(err)
		}
		for range 64 {
			sends(t, qemu, ether("unheard", frames.Max))
		}
		c.admit()
		for range 64 {
			sends(t, qemu, ether("unheard", frames.Max))
		}
		if n := len(hub.Heard(ownMAC)); n > 0 {
			t.Errorf("%d frames behind what is none", n)
		}
		if admitted {
			hub.Send(ether("still hears", 0))
			if f := receives(t, qemu); !bytes.Contains(f, []byte("still hears")) {
				t.Errorf("QEMU got %q", f)
			}
		}
	}
}

// TestCardsLeaveNothing: whatever a card is at when QEMU ends, its goroutines and descriptors end.
func TestCardsLeaveNothing(t *testing.T) {
	hub := framestest.New(t)
	goroutines, files := runtime.NumGoroutine(), openFiles(t)
	for range 20 {
		for name, prepare := range map[string]func(c *card, qemu *os.File){
			"spare":   func(*card, *os.File) {},
			"nowhere": func(c *card, _ *os.File) { c.set(Card{MAC: ownMAC, Connected: true}) },
			"away":    func(c *card, _ *os.File) { c.set(Card{MAC: ownMAC, Connected: true, Frames: hub.Socket + "x"}) },
			"joining": func(c *card, _ *os.File) { c.set(joinTo(hub, ownMAC)) },
			"joined":  func(c *card, _ *os.File) { c.set(joinTo(hub, ownMAC)); awaitJoined(t, hub, c) },
			"full": func(c *card, _ *os.File) { // QEMU does not read
				c.set(joinTo(hub, ownMAC))
				awaitJoined(t, hub, c)
				go func() {
					for range 16 {
						hub.Send(ether("full", frames.Max))
					}
				}()
			},
		} {
			ours, theirs, err := socketPair()
			if err != nil {
				t.Fatal(err)
			}
			c := newCard(0, ours, name != "joined", dialTest, slog.New(slog.DiscardHandler))
			prepare(c, theirs)
			theirs.Close()
			admitted := make(chan struct{})
			go func() { defer close(admitted); c.admit() }()
			c.close()
			<-admitted
			hub.AwaitNone()
		}
	}
	for deadline := time.Now().Add(time.Minute); runtime.NumGoroutine() > goroutines || openFiles(t) > files; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines of %d and %d files of %d are left", runtime.NumGoroutine(), goroutines, openFiles(t), files)
		}
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

// FuzzCardFromQEMU: whatever QEMU writes, the switch gets nothing but the whole frames at its beginning.
func FuzzCardFromQEMU(f *testing.F) {
	f.Add(frames.Append(frames.Append(nil, ether("a", 60)), ether("b", 0)), uint8(7))
	f.Add([]byte{0, 0, 0, 1, 7}, uint8(0))
	f.Add([]byte{0, 1, 0, 17, 1, 2, 3}, uint8(1))
	f.Fuzz(func(t *testing.T, stream []byte, cut uint8) {
		if len(stream) > 64<<10 {
			return // it is written before any is read
		}
		c, qemu := wired(t, true)
		ours, switchEnd := unixPair(t)
		c.conn.Store(ours)
		c.open()
		done := make(chan []byte)
		go func() {
			b, _ := io.ReadAll(switchEnd)
			done <- b
		}()
		n := min(int(cut), len(stream))
		for _, part := range [][]byte{stream[:n], stream[n:]} {
			if _, err := qemu.Write(part); err != nil {
				t.Fatal(err)
			}
		}
		qemu.Close()
		err := c.sendAll(frames.NewReader(c.qemu))
		ours.Close()
		got := <-done
		var want []byte
		for r := frames.NewReader(bytes.NewReader(stream)); ; {
			batch, err := r.Batch()
			if err != nil {
				break
			}
			want = append(want, batch...)
		}
		if !bytes.Equal(got, want) || err == nil {
			t.Errorf("%d bytes of %d: %v", len(got), len(want), err)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
	})
}

// BenchmarkCard measures a way through the relay: frames from QEMU's end to the switch's, and back.
func BenchmarkCard(b *testing.B) {
	for _, size := range []int{64, 1514, 16 << 10, 64 << 10} {
		socket := filepath.Join(b.TempDir(), frames.Socket)
		l, err := net.Listen("unix", socket)
		if err != nil {
			b.Fatal(err)
		}
		c, qemu := wired(b, true)
		c.set(Card{MAC: ownMAC, Connected: true, Frames: socket})
		conn, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		if _, _, err := frames.ReadHello(conn); err != nil {
			b.Fatal(err)
		}
		frame := frames.Append(nil, ether("x", size))
		for way, ends := range map[string][2]io.ReadWriter{"out": {qemu, conn}, "in": {conn, qemu}} {
			b.Run(way+"/"+strconv.Itoa(size), func(b *testing.B) {
				b.SetBytes(int64(len(frame)))
				done := make(chan struct{})
				total := 0
				n := 0
				begin := func(want int) {
					total, n = want, 0
					go func() {
						buf := make([]byte, 256<<10)
						for n < total {
							k, err := ends[1].Read(buf)
							if err != nil {
								b.Error(err)
								break
							}
							n += k
						}
						done <- struct{}{}
					}()
				}
				begin(b.N * len(frame))
				b.ResetTimer()
				for range b.N {
					if _, err := ends[0].Write(frame); err != nil {
						b.Fatal(err)
					}
				}
				<-done
			})
		}
		l.Close()
		conn.Close()
	}
}
