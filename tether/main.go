// Command tether is PID 1 of a containerVM. It reads from its host what to run, makes the container's root of the machine's
// disk, runs the container's process in it, and ends the machine when the process has ended.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/containervm/containervm/internal/version"
	"github.com/containervm/containervm/tether/internal/forkpoint"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func main() {
	if forkpoint.IsProgram() { // a process of the container's
		os.Exit(forkpoint.Main(os.Stdout, os.Stderr))
	}
	t := newTether(version.String())
	defer func() { // a panic of the boot itself: a machine that ends and says why, not a kernel panic
		if p := recover(); p != nil {
			t.console.Error("the tether is broken", "panic", p, "stack", string(debug.Stack()))
			t.powerOff()
		}
	}()
	if os.Getpid() != 1 {
		t.console.Error("the tether is PID 1 of a containerVM, it does nothing elsewhere")
		os.Exit(2)
	}
	ctx := context.Background()
	if err := t.boot(ctx); err != nil {
		t.fail(ctx, err)
	}
	t.enter("off")
	t.powerOff()
}

// boot goes through the phases in order.
func (t *tether) boot(ctx context.Context) error {
	if err := t.run(ctx, []phase{
		{"mounts", t.mountEarly},
		{"host", t.findHost},
		{"spec", t.readSpec},
		{"clock", t.setClock},
	}); err != nil {
		return err
	}
	switch t.spec.Load().Mode {
	case tetherv1.Mode_UNPACK:
		return t.run(ctx, []phase{
			{"unpacking", t.serveUnpacker},
		})
	case tetherv1.Mode_TEMPLATE:
		return t.run(ctx, []phase{
			{"ready", t.getReady},
			{"freeze", t.freeze}, // a child goes on from here
			{"wake", t.wake},
			{"identity", t.becomeChild},
			{"disk", t.mountDisk},
			{"root", t.enterRoot},
			{"receipt", t.closeReceipt},
			{"gate", t.awaitGate},
			{"process", t.startProcess},
			{"running", t.attend},
			{"stopping", t.leaveRoot},
		})
	default:
		return t.run(ctx, []phase{
			{"names", t.setNames},
			{"network", t.configureNetwork},
			{"disk", t.mountDisk},
			{"root", t.enterRoot},
			{"process", t.startProcess},
			{"running", t.attend},
			{"stopping", t.leaveRoot},
		})
	}
}
