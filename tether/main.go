// Command tether is PID 1 of a containerVM. It reads from its host what to run, makes the container's root of the machine's
// disk, runs the container's process in it, and ends the machine when the process has ended.
//
// One goroutine, that of main, goes through the phases and owns the machine's state; while the container runs it is an event loop:
// the process's end, requests to stop it, signals, and forks of the machine are dealt with one after the other.
//
//	main.go      the phases in order           tether.go    the state, and what most phases do
//	instance.go  a container: disk, root, process           run.go       the event loop, the log and the link of a running one
//	fork.go      a template and its children   copy.go      forks of a running container
//	receipt.go   what a fork does to become someone else    rehearse.go  a start of a container for practice
//	hold.go      processes that stand for a fork            progress.go  phase, status and timeline, as others see them
//	network.go   the network of a running container         limits.go    limits, sysctls, swap, devices, init
//	clock.go     the wall clock of a running container
//	files.go     the files of a container that runs, or is not to run
//
// It logs to the machine's console. The word cvm.log of the kernel's command line chooses the least level, debug, info, warn or error;
// without it that is info. hostd-bridge adds words from the VM's key cvm.boot.cmdline.
package main

import (
	"context"
	"os"
	"runtime/debug"

	"github.com/containervm/containervm/internal/version"
	"github.com/containervm/containervm/tether/internal/forkpoint"
	"github.com/containervm/containervm/tether/internal/process"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func main() {
	if forkpoint.IsProgram() { // a process of the container's
		os.Exit(forkpoint.Main(os.Stdout, os.Stderr))
	}
	if process.IsInit() { // the container's PID 1
		os.Exit(process.Init(os.Stderr))
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
	t.progress.enter("off", t.console)
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
	switch t.instance.spec.Mode {
	case tetherv1.Mode_UNPACK:
		return t.run(ctx, []phase{
			{"unpacking", t.serveUnpacker},
		})
	case tetherv1.Mode_FILES:
		return t.run(ctx, []phase{
			{"disk", t.mountDisk},
			{"root", t.enterRoot},
			{"volumes", t.mountFiles},
			{"files", t.serveFiles},
			{"stopping", t.leaveRoot},
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
