package guest

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// Exit codes that Docker gives to processes that did not end by themselves.
const (
	ExitEngine        = 125 // Docker's own failure
	ExitNotExecutable = 126
	ExitNotFound      = 127
	ExitKilled        = 128 + 9 // as if by SIGKILL: the machine went away under the process
	ExitUnknown       = 255
)

// StartPrefix and ExecPrefix begin what Docker says when a process cannot be started.
const (
	StartPrefix = "failed to create task for container: "
	ExecPrefix  = "exec failed: "
)

// ExitCode is the exit code that Docker gives to a process that could not be started.
func ExitCode(f *tetherv1.Failure) int {
	switch f.GetReason() {
	case tetherv1.Failure_NOT_FOUND:
		return ExitNotFound
	case tetherv1.Failure_NOT_EXECUTABLE:
		return ExitNotExecutable
	default:
		return ExitEngine
	}
}

// FailureText says why a process could not be started. The docker command makes its own exit code, 126 or 127, of the
// phrases "executable file not found", "no such file or directory" and "permission denied" (docker/cli,
// cli/command/container/run.go), so they are in it whatever the tether's own words are.
func FailureText(f *tetherv1.Failure, args []string) string {
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
	case tetherv1.Failure_BAD_CWD:
		return text // Docker's clients know it by the same words
	default:
		return WithoutPhrases(text)
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

// WithoutPhrases keeps a text about something else from being taken for a missing or forbidden executable.
func WithoutPhrases(text string) string {
	return strings.NewReplacer(
		"no such file or directory", "no such file or folder",
		"permission denied", "access denied",
		"executable file not found", "executable not found",
	).Replace(text)
}

// StartError is the error of a start whose process could not be started, with Docker's status: 400 for what the
// request got wrong.
func StartError(prefix string, f *tetherv1.Failure, args []string) error {
	text := prefix + FailureText(f, args)
	switch f.GetReason() {
	case tetherv1.Failure_NOT_FOUND, tetherv1.Failure_NOT_EXECUTABLE, tetherv1.Failure_NO_USER, tetherv1.Failure_BAD_CWD:
		return errdefs.ErrInvalidArgument.WithMessage(text)
	default:
		return errdefs.ErrInternal.WithMessage(text)
	}
}

// tailBytes is how much of a guest's console an error quotes.
const tailBytes = 2 << 10

// Quote sets a console's end under an error; nothing when there is none.
func Quote(tail string) string {
	tail = strings.TrimSpace(strings.ToValidUTF8(strings.ReplaceAll(tail, "\r", ""), "?"))
	if tail == "" {
		return ""
	}
	tail = tail[max(0, len(tail)-tailBytes):]
	return "; the end of its console:\n" + WithoutPhrases(tail)
}
