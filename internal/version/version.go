// Package version is the version of the program that it is linked into.
package version

import "runtime/debug"

// linked is set by the linker and by nothing else: see go_build in the Makefile, which takes it from git by scripts/version.
var linked string

// String is the version: of the nearest tag ("v1.2.3", with "-N-gCOMMIT" behind it N commits later and "-dirty" when files
// had been changed), as the Makefile links it; that of the module when `go install MODULE@VERSION` built the program; else
// "devel".
func String() string {
	if linked != "" {
		return linked
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" && info.Main.Version != "(devel)" {
		return info.Main.Version
	}
	return "devel"
}
