package hostapi_test

import (
	"fmt"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// What a run has said belongs to its number: an exit of another run decides nothing.
func ExampleRunOf() {
	extra := map[string]string{
		hostapi.KeyRun:  "3",
		hostapi.KeyExit: `{"run":3,"at":"2026-11-26T12:00:00Z","orderly":false,"reason":"guest kernel panic"}`,
	}
	exit, err := hostapi.DecodeExit(extra[hostapi.KeyExit])
	fmt.Println(exit.Run == hostapi.RunOf(extra), exit.Reason, err)
	// Output: true guest kernel panic <nil>
}

func ExampleParseMarker() {
	m, err := hostapi.ParseMarker("run 7 fork 1 2")
	fmt.Println(m.Run, m.Fork.Generation, m.Fork.Index, err)
	// Output: 7 1 2 <nil>
}

// A client of a vCenter, whose clones have all keys of their source, deletes those that a host of this kind leaves out.
func ExampleInherited() {
	for _, key := range []string{hostapi.KeyKernel, "cvm.role", "guestinfo.cvm.spec", "annotation"} {
		fmt.Println(key, hostapi.Inherited(key))
	}
	// Output:
	// cvm.boot.kernel true
	// cvm.role false
	// guestinfo.cvm.spec false
	// annotation true
}
