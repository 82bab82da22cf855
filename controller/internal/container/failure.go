package container

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// startPrefix and execPrefix begin what Docker says when a process cannot be started.
const (
	startPrefix = "failed to create task for container: "
	execPrefix  = "exec failed: "
)

// failureCode is the exit code that Docker gives to a process that could not be started.
func failureCode(f *tetherv1.Failure) int {
	switch f.GetReason() {
	case tetherv1.Failure_NOT_FOUND:
		return exitNotFound
	case tetherv1.Failure_NOT_EXECUTABLE:
		return exitNotExecutable
	default:
		return exitEngine
	}
}

// failureText says why a process could not be started. The docker command makes its own exit code, 126 or 127, of the
// phrases "executable file not found", "no such file or directory" and "permission denied" (docker/cli,
// cli/command/container/run.go), so they are in it whatever the tether's own words are.
func failureText(f *tetherv1.Failure, args []string) string {
	text := f.GetMessage()
	name := ""
	if len(args) > 0 {
		name = args[0]
	}
	switch f.GetReason() {
	case tetherv1.Failure_NOT_FOUND:
		if strings.Contains(name, "/") {
			return withPhrase(text, fmt.Sprintf("exec: %q: stat %s: no such file or directory", name, name), "no such file or directory")
		}
		return withPhrase(text, fmt.Sprintf("exec: %q: executable file not found in $PATH", name), "executable file not found")
	case tetherv1.Failure_NOT_EXECUTABLE:
		return withPhrase(text, fmt.Sprintf("exec: %q: permission denied", name), "permission denied")
	case tetherv1.Failure_NO_USER:
		return withPhrase(text, "unable to find user", "unable to find")
	default:
		return withoutPhrases(text)
	}
}

// withPhrase is text when it has the phrase, else the standard sentence with text behind it.
func withPhrase(text, standard, phrase string) string {
	switch {
	case strings.Contains(text, phrase):
		return text
	case text == "":
		return standard
	default:
		return standard + " (" + text + ")"
	}
}

// withoutPhrases keeps a text about something else from being taken for a missing or forbidden executable.
func withoutPhrases(text string) string {
	return strings.NewReplacer(
		"no such file or directory", "no such file or folder",
		"permission denied", "access denied",
		"executable file not found", "executable not found",
	).Replace(text)
}

// startError is the error of a start whose process could not be started, with Docker's status: 400 for what the
// request got wrong.
func startError(prefix string, f *tetherv1.Failure, args []string) error {
	text := prefix + failureText(f, args)
	switch f.GetReason() {
	case tetherv1.Failure_NOT_FOUND, tetherv1.Failure_NOT_EXECUTABLE, tetherv1.Failure_NO_USER, tetherv1.Failure_BAD_CWD:
		return errdefs.ErrInvalidArgument.WithMessage(text)
	default:
		return errdefs.ErrInternal.WithMessage(text)
	}
}
