package daemon_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	ctr "github.com/containervm/containervm/controller/internal/container"
	"github.com/containervm/containervm/hostd-bridge/daemon/daemontest"
	"github.com/containervm/containervm/tether/link"
	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// impatient are Timeouts for guests that do not do their part.
var impatient = ctr.Timeouts{Start: 300 * time.Millisecond, Link: 200 * time.Millisecond, Off: 200 * time.Millisecond}

// badGuests are guests that go wrong, by the container's command; other commands get a whole tether.
func badGuests(t *testing.T, setup func(*daemontest.Machine, *linktest.Tether)) daemontest.Guest {
	good := daemontest.TetherGuest(t, setup)
	bad := map[string]daemontest.Guest{
		"mute":     mute,
		"hang":     hang,
		"vanish":   func(context.Context, *daemontest.Machine) {},
		"nolink":   func(ctx context.Context, m *daemontest.Machine) { running(t, m); <-ctx.Done() },
		"deaf":     func(ctx context.Context, m *daemontest.Machine) { deaf(t, ctx, m) },
		"denied":   fails(t, tetherv1.Failure_NOT_EXECUTABLE, "denied: is a directory"),
		"nodisk":   fails(t, tetherv1.Failure_ROOT_DISK, "cannot open /dev/vda: no such file or directory"),
		"lingerer": func(ctx context.Context, m *daemontest.Machine) { linger(t, ctx, m) },
	}
	return func(ctx context.Context, m *daemontest.Machine) {
		spec, err := link.DecodeSpec(m.Get(link.KeySpec))
		if err == nil && len(spec.GetProcess().GetArgs()) > 0 {
			if guest := bad[spec.GetProcess().GetArgs()[0]]; guest != nil {
				guest(ctx, m)
				return
			}
		}
		good(ctx, m)
	}
}

// mute never says anything.
func mute(ctx context.Context, m *daemontest.Machine) { <-ctx.Done() }

// hang is a tether that gets stuck on its way, and has said why on the console.
func hang(ctx context.Context, m *daemontest.Machine) {
	_ = os.WriteFile(filepath.Join(m.Spec.HomeDir, "console.log"), []byte("EXT4-fs error (device vda): bad superblock\r\n"), 0o600)
	m.Set(link.KeyPhase, "rootfs")
	<-ctx.Done()
}

// running says that the process runs.
func running(t *testing.T, m *daemontest.Machine) {
	say(t, m, &tetherv1.Status{State: tetherv1.State_RUNNING, Pid: 2, StartedUnixNano: time.Now().UnixNano()})
}

// deaf takes connections on the link's port and never answers.
func deaf(t *testing.T, ctx context.Context, m *daemontest.Machine) {
	m.Listen(link.PortLink, func(conn net.Conn) {
		<-ctx.Done()
		conn.Close()
	})
	running(t, m)
	<-ctx.Done()
}

// linger does not power off when its process has failed to start.
func linger(t *testing.T, ctx context.Context, m *daemontest.Machine) {
	say(t, m, &tetherv1.Status{State: tetherv1.State_FAILED, Failure: &tetherv1.Failure{Reason: tetherv1.Failure_NOT_FOUND}})
	<-ctx.Done()
}

func fails(t *testing.T, reason tetherv1.Failure_Reason, message string) daemontest.Guest {
	return func(_ context.Context, m *daemontest.Machine) {
		say(t, m, &tetherv1.Status{State: tetherv1.State_FAILED, Failure: &tetherv1.Failure{Reason: reason, Message: message}})
	}
}

func say(t *testing.T, m *daemontest.Machine, st *tetherv1.Status) {
	text, err := link.EncodeStatus(st)
	if err != nil {
		t.Error(err)
	}
	m.Set(link.KeyStatus, text)
}
