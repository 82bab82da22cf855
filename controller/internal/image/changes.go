package image

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// applyChanges applies Dockerfile instructions to a configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL,
// ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR, as `docker import --change` takes them.
func applyChanges(c *dockerspec.DockerOCIImageConfig, changes []string) error {
	for _, change := range changes {
		word, rest, _ := strings.Cut(strings.TrimSpace(change), " ")
		apply, ok := instructions()[strings.ToUpper(word)]
		if !ok {
			return invalid("cannot apply the change %q: %s is not a valid change command", change, word)
		}
		rest = strings.TrimSpace(rest)
		if rest == "" {
			return invalid("cannot apply the change %q: %s requires an argument", change, strings.ToUpper(word))
		}
		if err := apply(c, rest); err != nil {
			return invalid("cannot apply the change %q: %w", change, err)
		}
	}
	return nil
}

type instruction func(c *dockerspec.DockerOCIImageConfig, rest string) error

func instructions() map[string]instruction {
	return map[string]instruction{
		"CMD":         func(c *dockerspec.DockerOCIImageConfig, s string) error { c.Cmd = command(c, s); return nil },
		"ENTRYPOINT":  func(c *dockerspec.DockerOCIImageConfig, s string) error { c.Entrypoint = command(c, s); return nil },
		"ENV":         setEnv,
		"EXPOSE":      setPorts,
		"HEALTHCHECK": setHealthcheck,
		"LABEL":       setLabels,
		"ONBUILD":     func(c *dockerspec.DockerOCIImageConfig, s string) error { c.OnBuild = append(c.OnBuild, s); return nil },
		"STOPSIGNAL":  func(c *dockerspec.DockerOCIImageConfig, s string) error { c.StopSignal = s; return nil },
		"USER":        func(c *dockerspec.DockerOCIImageConfig, s string) error { c.User = s; return nil },
		"VOLUME":      setVolumes,
		"WORKDIR":     func(c *dockerspec.DockerOCIImageConfig, s string) error { c.WorkingDir = s; return nil },
	}
}

// list reads the JSON form of an instruction.
func list(s string) ([]string, bool) {
	var words []string
	err := json.Unmarshal([]byte(s), &words)
	return words, err == nil
}

// command is the JSON form, or the line run by the shell.
func command(c *dockerspec.DockerOCIImageConfig, s string) []string {
	if words, ok := list(s); ok {
		return words
	}
	shell := c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string(nil), shell...), s)
}

func setEnv(c *dockerspec.DockerOCIImageConfig, s string) error {
	pairs, err := pairs(s)
	if err != nil {
		return err
	}
	for _, kv := range pairs {
		kept := c.Env[:0]
		for _, e := range c.Env {
			if !strings.HasPrefix(e, kv[0]+"=") {
				kept = append(kept, e)
			}
		}
		c.Env = append(kept, kv[0]+"="+kv[1])
	}
	return nil
}

func setLabels(c *dockerspec.DockerOCIImageConfig, s string) error {
	pairs, err := pairs(s)
	if err != nil {
		return err
	}
	if c.Labels == nil {
		c.Labels = map[string]string{}
	}
	for _, kv := range pairs {
		c.Labels[kv[0]] = kv[1]
	}
	return nil
}

func setVolumes(c *dockerspec.DockerOCIImageConfig, s string) error {
	paths, ok := list(s)
	if !ok {
		paths = strings.Fields(s)
	}
	if c.Volumes == nil {
		c.Volumes = map[string]struct{}{}
	}
	for _, p := range paths {
		c.Volumes[p] = struct{}{}
	}
	return nil
}

func setPorts(c *dockerspec.DockerOCIImageConfig, s string) error {
	if c.ExposedPorts == nil {
		c.ExposedPorts = map[string]struct{}{}
	}
	for _, port := range strings.Fields(s) {
		number, proto, ok := strings.Cut(port, "/")
		if !ok {
			proto = "tcp"
		}
		if n, err := strconv.ParseUint(number, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("invalid port %q", port)
		}
		c.ExposedPorts[number+"/"+strings.ToLower(proto)] = struct{}{}
	}
	return nil
}

// setHealthcheck reads "NONE" or "[--interval=D] [--timeout=D] [--start-period=D] [--start-interval=D] [--retries=N]
// CMD command".
func setHealthcheck(c *dockerspec.DockerOCIImageConfig, s string) error {
	h := &dockerspec.HealthcheckConfig{}
	for strings.HasPrefix(s, "--") {
		flag, rest, _ := strings.Cut(s, " ")
		if err := setHealthFlag(h, flag); err != nil {
			return err
		}
		s = strings.TrimSpace(rest)
	}
	word, rest, _ := strings.Cut(s, " ")
	switch strings.ToUpper(word) {
	case "NONE":
		h.Test = []string{"NONE"}
	case "CMD":
		if words, ok := list(rest); ok {
			h.Test = append([]string{"CMD"}, words...)
		} else {
			h.Test = []string{"CMD-SHELL", strings.TrimSpace(rest)}
		}
	default:
		return fmt.Errorf("unknown type %q: it is CMD or NONE", word)
	}
	c.Healthcheck = h
	return nil
}

func setHealthFlag(h *dockerspec.HealthcheckConfig, flag string) (err error) {
	name, value, _ := strings.Cut(flag, "=")
	durations := map[string]*time.Duration{
		"--interval": &h.Interval, "--timeout": &h.Timeout,
		"--start-period": &h.StartPeriod, "--start-interval": &h.StartInterval,
	}
	switch d, ok := durations[name]; {
	case ok:
		*d, err = time.ParseDuration(value)
	case name == "--retries":
		h.Retries, err = strconv.Atoi(value)
	default:
		err = fmt.Errorf("unknown flag %s", name)
	}
	return err
}

// pairs reads "name=value name2="a value" ..." or the old form "name value".
func pairs(s string) ([][2]string, error) {
	words, err := split(s)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(words[0], "=") {
		name, value, ok := strings.Cut(s, " ")
		if !ok {
			return nil, fmt.Errorf("%s must have a value", name)
		}
		return [][2]string{{name, strings.TrimSpace(value)}}, nil
	}
	var out [][2]string
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("cannot read %q: it must be name=value", w)
		}
		out = append(out, [2]string{name, value})
	}
	return out, nil
}

// split cuts a line at spaces that are not quoted, and takes quotes and backslashes away as a shell does.
func split(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	escaped, inWord := false, false
	for _, r := range s {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0 && r == quote:
			quote = 0
		case quote == 0 && (r == '"' || r == '\''):
			quote, inWord = r, true
		case quote == 0 && (r == ' ' || r == '\t'):
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}
