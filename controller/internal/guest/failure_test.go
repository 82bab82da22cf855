package guest

import (
	"strings"
	"testing"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// TestFailurePhrases holds the sentences by which the docker command chooses its exit code.
func TestFailurePhrases(t *testing.T) {
	for _, c := range []struct {
		reason     tetherv1.Failure_Reason
		text, arg  string
		code       int
		has, lacks string
	}{
		{tetherv1.Failure_NOT_FOUND, "", "nosuch", 127, "executable file not found in $PATH", "permission denied"},
		{tetherv1.Failure_NOT_FOUND, "gone", "/nosuch", 127, "no such file or directory", "permission denied"},
		{tetherv1.Failure_NOT_EXECUTABLE, "is a directory", "/etc", 126, "permission denied", "no such file or directory"},
		{tetherv1.Failure_ROOT_DISK, "cannot open /dev/vda: no such file or directory", "x", 125, "/dev/vda", "no such file or directory"},
		{tetherv1.Failure_NETWORK, "permission denied", "x", 125, "", "permission denied"},
		{tetherv1.Failure_NO_USER, "unable to find user x: no matching entries in passwd file", "x", 125, "no matching entries", "no such file"},
	} {
		f := &tetherv1.Failure{Reason: c.reason, Message: c.text}
		got := FailureText(f, []string{c.arg})
		if !strings.Contains(got, c.has) || strings.Contains(got, c.lacks) || ExitCode(f) != c.code {
			t.Errorf("%v %q: %q, %d; want %q, %d", c.reason, c.text, got, ExitCode(f), c.has, c.code)
		}
	}
}
