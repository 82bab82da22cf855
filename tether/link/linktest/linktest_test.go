package linktest_test

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func ask(t *testing.T, conn io.ReadWriter, text string) (string, error) {
	t.Helper()
	if err := link.WriteMessage(conn, text); err != nil {
		t.Fatal(err)
	}
	reply, err := link.ReadMessage(conn)
	if err != nil {
		t.Fatal(err)
	}
	return link.ParseReply(reply)
}

func TestHost(t *testing.T) {
	h := linktest.NewHost(t, map[string]string{link.KeySpec: "{}"})
	conn, err := h.Dial(link.ServiceGuestinfo)
	if err != nil {
		t.Fatal(err)
	}
	if v, err := ask(t, conn, "info-get "+link.KeySpec); v != "{}" || err != nil {
		t.Errorf("spec %q, %v", v, err)
	}
	if _, err := ask(t, conn, "info-get guestinfo.none"); !errors.Is(err, link.ErrNoValue) {
		t.Errorf("no value: %v", err)
	}
	if _, err := ask(t, conn, "log x"); err == nil {
		t.Error("an unknown command was answered")
	}
	if _, err := ask(t, conn, "info-set "+link.KeyPhase+" mount root"); err != nil {
		t.Error(err)
	}
	if h.Get(link.KeyPhase) != "mount root" || len(h.Sets()) != 1 {
		t.Errorf("phase %q after %v", h.Get(link.KeyPhase), h.Sets())
	}
	if _, err := h.Dial(99); err == nil {
		t.Error("an unknown service was reached")
	}
}

func TestHostLog(t *testing.T) {
	h := linktest.NewHost(t, nil)
	conn, err := h.Dial(link.ServiceLog)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(link.AppendRecord(nil, link.Record{Stream: link.StreamStdout, Payload: []byte("hi")})); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	h.Wait(ctx, "the end of the log", func() bool { return h.LogEnds() == 1 })
	if r := h.Records(); len(r) != 1 || string(r[0].Payload) != "hi" || r[0].Time.IsZero() {
		t.Errorf("records %v", r)
	}
}

func TestFaults(t *testing.T) {
	f := linktest.NewTether(t)
	c := f.Client(linktest.Delay(time.Millisecond))
	if _, err := c.Tether().Info(t.Context(), &tetherv1.InfoRequest{}); err != nil {
		t.Errorf("delayed: %v", err)
	}
	if _, err := link.NewClient(t.Context(), f.Dial(linktest.CutAfter(3))); err == nil {
		t.Error("cut in the preface, and no error")
	}
	f.Lose()
	if _, err := c.Tether().Info(t.Context(), &tetherv1.InfoRequest{}); !errors.Is(err, link.ErrLost) {
		t.Errorf("lost: %v", err)
	}
}

// TestStop shows what a host sees of an orderly stop and of one without grace.
func TestStop(t *testing.T) {
	for grace, want := range map[uint32]int32{10: 143, 0: 137} {
		f := linktest.NewTether(t)
		stubborn := func(p *linktest.Process) *tetherv1.Exit {
			sig := <-p.Signals
			if grace == 0 {
				<-p.Killed
			}
			return linktest.Signalled(sig)
		}
		f.Program("stubborn", stubborn)
		p := f.Start(&tetherv1.Process{Args: []string{"stubborn"}})
		if _, err := f.Client().Tether().Stop(t.Context(), &tetherv1.StopRequest{GraceSeconds: grace}); err != nil {
			t.Fatal(err)
		}
		<-p.Done()
		if p.Exit().Code != want {
			t.Errorf("grace %d: %v, want %d", grace, p.Exit(), want)
		}
	}
}

// TestSessionsTellWhetherTheyEnded: one Info is enough to adopt a session.
func TestSessionsTellWhetherTheyEnded(t *testing.T) {
	f := linktest.NewTether(t)
	f.Start(&tetherv1.Process{Args: []string{"sleep"}})
	rpc := f.Client().Tether()
	if _, err := rpc.Exec(t.Context(), &tetherv1.ExecRequest{Session: "x", Process: &tetherv1.Process{Args: []string{"exit", "3"}}}); err != nil {
		t.Fatal(err)
	}
	<-f.Process("x").Done()
	info, err := rpc.Info(t.Context(), &tetherv1.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if all := info.SessionInfos; len(all) != 2 || all[0].Session != link.MainSession || all[0].Exit != nil || all[1].Exit.GetCode() != 3 {
		t.Errorf("sessions: %v", all)
	}
}
