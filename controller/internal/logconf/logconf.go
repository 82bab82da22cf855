// Package logconf reads what a container's log is to be: HostConfig.LogConfig. There is one store, the host's, whichever of Docker's drivers is
// named; a driver decides about the defaults, the options that are known, and whether anything is stored.
package logconf

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/go-units"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// Drivers.
const (
	JSONFile = "json-file" // Docker's default, and so the one of a container that names none
	Local    = "local"
	None     = "none" // nothing is stored
)

// Drivers lists them.
func Drivers() []string { return []string{JSONFile, Local, None} }

// ErrNotReadable refuses to read the log of a container that has none, in Docker's words.
var ErrNotReadable = errdefs.ErrNotImplemented.WithMessage("configured logging driver does not support reading")

// elsewhere are Docker's drivers that send a log to another place.
const elsewhere = "awslogs etwlogs fluentd gcplogs gelf journald splunk syslog"

// options are those that a driver has, beside mode and max-buffer-size, which all have.
var options = map[string][]string{
	JSONFile: {"max-file", "max-size", "compress", "labels", "labels-regex", "env", "env-regex", "tag"},
	Local:    {"max-file", "max-size", "compress"},
	None:     {},
}

func invalid(format string, args ...any) error {
	return errdefs.ErrInvalidArgument.WithMessage(fmt.Sprintf(format, args...))
}

// Complete returns a configuration with its driver filled in.
func Complete(c container.LogConfig) container.LogConfig {
	if c.Type == "" {
		c.Type = JSONFile
	}
	if c.Config == nil {
		c.Config = map[string]string{}
	}
	return c
}

// Check says what of a configuration cannot be, in Docker's words where it would refuse it, too.
func Check(c container.LogConfig) error {
	c = Complete(c)
	known, ok := options[c.Type]
	switch {
	case slices.Contains(strings.Fields(elsewhere), c.Type):
		return errdefs.ErrNotImplemented.WithMessage("the log driver " + c.Type + " is not supported: logs are kept by the host. Use " + strings.Join(Drivers(), ", ") + ", and read them by the API")
	case !ok:
		return invalid("error looking up logging plugin %s: plugin %q not found", c.Type, c.Type)
	}
	for _, key := range slices.Sorted(maps.Keys(c.Config)) {
		if key != "mode" && key != "max-buffer-size" && !slices.Contains(known, key) {
			if c.Type == Local {
				return invalid("unknown log opt '%s' for log driver %s", key, c.Type)
			}
			return invalid("unknown log opt '%s' for %s log driver", key, c.Type)
		}
	}
	if err := checkMode(c.Config); err != nil {
		return err
	}
	if _, err := Host(c); err != nil {
		return err
	}
	_, err := details(c.Config, &container.Config{}, Names{})
	return err
}

// checkMode refuses a buffer that drops output: a process waits for its host's disk alone, and for who is attached.
func checkMode(config map[string]string) error {
	mode, size := config["mode"], config["max-buffer-size"]
	switch {
	case mode != "" && mode != "blocking" && mode != "non-blocking":
		return invalid("logger: logging mode not supported: %s", mode)
	case size != "" && mode != "non-blocking":
		return invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'")
	case mode == "non-blocking":
		return errdefs.ErrNotImplemented.WithMessage("mode=non-blocking is not supported: it would drop output, and the log is on the host's own disk. Leave it out")
	}
	return nil
}

// Host is how much a host keeps for a configuration.
func Host(c container.LogConfig) (hostapi.Log, error) {
	var l hostapi.Log
	c = Complete(c)
	if c.Type == None {
		return hostapi.Log{Discard: true}, nil
	}
	if text, ok := c.Config["max-size"]; ok && !(c.Type == Local && text == "0") {
		n, err := units.FromHumanSize(text)
		switch {
		case err != nil || n < 0:
			return l, invalid("failed to initialize logging driver: invalid size: '%s'", text)
		case n == 0:
			return l, invalid("failed to initialize logging driver: max-size must be a positive number")
		}
		l.FileBytes = n
		if c.Type == JSONFile {
			l.Files = 1 // Docker's default, once there is a size
		}
	}
	if text, ok := c.Config["max-file"]; ok {
		n, err := strconv.Atoi(text)
		switch {
		case err != nil:
			return l, invalid("failed to initialize logging driver: %v", err)
		case n < 1:
			return l, invalid("failed to initialize logging driver: max-file cannot be less than 1")
		case n > hostapi.MaxLogFiles:
			return l, invalid("failed to initialize logging driver: max-file cannot be more than %d", hostapi.MaxLogFiles)
		}
		l.Files = n
	}
	return l, checkCompress(c.Config["compress"])
}

// checkCompress refuses what would not be done.
func checkCompress(text string) error {
	if text == "" {
		return nil
	}
	on, err := strconv.ParseBool(text)
	if err != nil {
		return invalid("failed to initialize logging driver: %v", err)
	}
	if on {
		return errdefs.ErrNotImplemented.WithMessage("compress=true is not supported: rotated logs are kept as they are. Leave it out, and bound them by max-size and max-file")
	}
	return nil
}

// Names are those of a container that a tag may have.
type Names struct {
	ID, Name, Image, ImageID string
}

// Details is what stands before a line of a log that is read with its details: the labels and variables that the configuration names, and its tag,
// as Docker writes them.
func Details(c container.LogConfig, of *container.Config, names Names) string {
	all, err := details(c.Config, of, names)
	if err != nil {
		return "" // it was checked when the container was made
	}
	return encode(all)
}

var errNoTag = errors.New("cannot read the tag")
