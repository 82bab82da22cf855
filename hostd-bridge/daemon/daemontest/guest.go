package daemontest

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TetherGuest returns a guest that is a fake tether: it reads its Spec, serves link, runs the process that the Spec
// names as a program of the fake, with its output in the log, and powers off when that ends. In Mode UNPACK it takes
// layers until it is told to stop, in Mode FILES it has files until then; in Mode TEMPLATE it freezes. A fork waits for a Spec and gives a receipt; one of a
// template then waits at its gate, and one of a machine whose process ran runs the Spec's process, in the place of going
// on with it. setup, which may be nil, can install programs.
func TetherGuest(t testing.TB, setup func(*Machine, *linktest.Tether)) Guest {
	return func(ctx context.Context, m *Machine) {
		begins := link.Record{Stream: link.StreamRun, Time: time.Now(), Payload: []byte(hostapi.Marker{Run: m.Spec.Run}.String())}
		if err := m.Log(link.AppendRecord(nil, begins)); err != nil { // as a machine's host does
			say(m, failed(tetherv1.Failure_INTERNAL, err.Error()))
			return
		}
		m.Set(link.KeyVersion, "fake")
		spec, err := identity(ctx, m)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			say(m, failed(tetherv1.Failure_INTERNAL, err.Error()))
			return
		}
		if spec.GetMode() == tetherv1.Mode_TEMPLATE {
			m.Freeze(ctx)
			return
		}
		serve(ctx, t, m, spec, setup)
	}
}

// serve serves link and does what the Spec says.
func serve(ctx context.Context, t testing.TB, m *Machine, spec *tetherv1.Spec, setup func(*Machine, *linktest.Tether)) {
	tether := linktest.NewTether(t)
	defer tether.PowerOff()
	if setup != nil {
		setup(m, tether)
	}
	m.Set(link.KeyPhase, "process")
	ctx, powerOff := context.WithCancel(ctx)
	defer powerOff()
	m.Listen(link.PortLink, func(conn net.Conn) {
		_ = link.Serve(ctx, conn, &stoppable{Tether: tether, stop: powerOff}, slog.New(slog.DiscardHandler)) // the client's end sees its errors
	})
	if mode := spec.GetMode(); mode == tetherv1.Mode_UNPACK || mode == tetherv1.Mode_FILES {
		say(m, &tetherv1.Status{State: tetherv1.State_RUNNING})
		<-ctx.Done()
		return
	}
	if m.Parent() != nil && m.Memory() != hasRun && m.Wait(ctx, link.KeyGate) == "" {
		return
	}
	m.Remember(hasRun)
	run(ctx, m, tether, spec.GetProcess())
}

// hasRun is what a fake tether keeps in its machine's memory from when its process is started.
const hasRun = "the process has run"

// identity returns the machine's Spec; a fork waits for it and gives a receipt.
func identity(ctx context.Context, m *Machine) (*tetherv1.Spec, error) {
	if m.Parent() == nil {
		return link.DecodeSpec(m.Get(link.KeySpec))
	}
	if m.Get(link.KeyRehearse) != "" {
		m.Set(link.KeyPhase, link.PhaseWarm)
	}
	spec, err := link.DecodeSpec(m.Wait(ctx, link.KeySpec))
	if err != nil {
		return nil, err
	}
	fork := &tetherv1.Fork{}
	if text := m.Get(link.KeyFork); text != "" {
		if fork, err = link.DecodeFork(text); err != nil {
			return nil, err
		}
	}
	receipt, err := link.EncodeReceipt(&tetherv1.Receipt{
		Generation: fork.Generation, Index: fork.Index, Micros: 1,
		Items: []*tetherv1.ReceiptItem{{Name: "entropy", Outcome: tetherv1.ReceiptItem_DONE, Micros: 1}},
	})
	if err == nil {
		m.Set(link.KeyReceipt, receipt)
	}
	return spec, err
}

// stoppable is a tether without a main process: Stop powers it off.
type stoppable struct {
	*linktest.Tether
	stop context.CancelFunc
}

// Stop implements link.Handler.
func (s *stoppable) Stop(ctx context.Context, req *tetherv1.StopRequest) (*tetherv1.StopResponse, error) {
	if s.Process(link.MainSession) == nil {
		s.stop()
		return &tetherv1.StopResponse{}, nil
	}
	return s.Tether.Stop(ctx, req)
}

// run runs the main process and reports it as a tether does.
func run(ctx context.Context, m *Machine, tether *linktest.Tether, process *tetherv1.Process) {
	res, err := tether.Exec(ctx, &tetherv1.ExecRequest{
		Session: link.MainSession, Process: process, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		say(m, failed(tetherv1.Failure_INTERNAL, err.Error()))
		return
	}
	if res.Failure != nil {
		say(m, &tetherv1.Status{State: tetherv1.State_FAILED, Failure: res.Failure})
		return
	}
	started := time.Now().UnixNano()
	say(m, &tetherv1.Status{State: tetherv1.State_RUNNING, Pid: res.Pid, StartedUnixNano: started})
	tether.OnPause(func(paused bool) {
		say(m, &tetherv1.Status{State: tetherv1.State_RUNNING, Pid: res.Pid, StartedUnixNano: started, Paused: paused})
	})
	var streams sync.WaitGroup
	for _, s := range []link.RecordStream{link.StreamStdout, link.StreamStderr} {
		streams.Go(func() { record(ctx, m, tether, s) })
	}
	p := tether.Process(link.MainSession)
	select {
	case <-p.Done():
		streams.Wait()
		say(m, &tetherv1.Status{State: tetherv1.State_EXITED, StartedUnixNano: started, Exit: p.Exit()})
	case <-ctx.Done():
	}
}

// record copies an output stream of the main process to the log.
func record(ctx context.Context, m *Machine, tether *linktest.Tether, s link.RecordStream) {
	r, _, _, err := tether.OpenOutput(ctx, link.MainSession, s, -1)
	if err != nil {
		return // a terminal has no second stream
	}
	defer r.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			rec := link.AppendRecord(nil, link.Record{Stream: s, Time: time.Now(), Payload: buf[:n]})
			err = errors.Join(err, m.Log(rec))
		}
		if err != nil { // io.EOF when the stream has ended
			return
		}
	}
}

func failed(reason tetherv1.Failure_Reason, message string) *tetherv1.Status {
	return &tetherv1.Status{State: tetherv1.State_FAILED, Failure: &tetherv1.Failure{Reason: reason, Message: message}}
}

// say sets the status; encoding a message that was just made cannot fail.
func say(m *Machine, s *tetherv1.Status) {
	text, err := link.EncodeStatus(s)
	if err != nil {
		text = err.Error()
	}
	m.Set(link.KeyStatus, text)
}
