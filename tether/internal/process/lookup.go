package process

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

// lookup finds the program of args[0] in the root and working directory of the calling thread. Its errors are worded as Docker's.
func lookup(file, path string) (string, error) {
	if strings.Contains(file, "/") {
		if err := executable(file); err != nil {
			return "", notRunnable(file, err)
		}
		return file, nil
	}
	var denied error
	for _, dir := range filepath.SplitList(path) {
		if !filepath.IsAbs(dir) {
			continue // os/exec finds no program by a relative entry either
		}
		program := filepath.Join(dir, file)
		err := executable(program)
		if err == nil {
			return program, nil
		}
		if errors.Is(err, os.ErrPermission) {
			denied = err
		}
	}
	if denied != nil && file != "" {
		return "", notRunnable(file, unix.EACCES)
	}
	return "", failure(tetherv1.Failure_NOT_FOUND, "exec: %q: executable file not found in $PATH", file)
}

// executable says why file is not a program that someone may run.
func executable(file string) error {
	info, err := os.Stat(file)
	switch {
	case err != nil:
		return err
	case info.IsDir():
		return unix.EISDIR
	case info.Mode()&0o111 == 0:
		return unix.EACCES
	default:
		return nil
	}
}

func notRunnable(file string, err error) error {
	return failure(reasonOf(err), "exec: %q: %w", file, err)
}

// execFailure words an error of execve(2), which is ENOENT also for a missing interpreter.
func execFailure(program string, err error) error {
	return failure(reasonOf(err), "exec %s: %w", program, err)
}

func reasonOf(err error) tetherv1.Failure_Reason {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return tetherv1.Failure_NOT_FOUND
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EISDIR), errors.Is(err, unix.ENOEXEC), errors.Is(err, unix.EPERM),
		errors.Is(err, unix.ELOOP), errors.Is(err, unix.E2BIG), errors.Is(err, unix.ETXTBSY), errors.Is(err, unix.EINVAL):
		return tetherv1.Failure_NOT_EXECUTABLE
	default:
		return tetherv1.Failure_INTERNAL
	}
}
