package image

import (
	"cmp"
	"encoding/json"
	"fmt"
	"path"
	"strconv"
	"strings"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/moby/moby/api/types/network"
)

// applyChanges applies Dockerfile instructions to a configuration: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL,
// ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR, as `docker import --change` and `docker commit --change` take them. Errors have Docker's
// words.
func applyChanges(c *dockerspec.DockerOCIImageConfig, changes []string) error {
	a := &applier{c: c}
	for _, change := range changes {
		lines := instructionLines(change)
		if len(lines) == 0 {
			return invalid("file with no instructions")
		}
		for _, line := range lines {
			if err := a.apply(line); err != nil {
				return invalid("%w", err)
			}
		}
	}
	return nil
}

// instructionLines are the instructions of a text: lines, joined where one ends with a backslash, without those that are empty or comments.
func instructionLines(text string) (lines []string) {
	for line := range strings.Lines(strings.ReplaceAll(text, "\\\n", "")) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, line)
		}
	}
	return lines
}

// applier applies instructions, one after the other.
type applier struct {
	c      *dockerspec.DockerOCIImageConfig
	cmdSet bool // by one of the instructions: an entrypoint drops another command
}

func (a *applier) apply(line string) error {
	word, rest, _ := strings.Cut(line, " ")
	name := strings.ToUpper(word)
	rest = strings.TrimSpace(rest)
	apply, ok := map[string]func(string) error{
		"CMD": a.setCommand, "ENTRYPOINT": a.setEntrypoint, "ENV": a.setEnv, "EXPOSE": a.setPorts, "HEALTHCHECK": a.setHealthcheck,
		"LABEL": a.setLabels, "ONBUILD": a.addTrigger, "STOPSIGNAL": a.setStopSignal, "USER": a.setUser, "VOLUME": a.setVolumes, "WORKDIR": a.setWorkingDir,
	}[name]
	switch {
	case !ok:
		return fmt.Errorf("%s is not a valid change command", strings.ToLower(word))
	case rest != "":
		return apply(rest)
	case name == "USER" || name == "WORKDIR" || name == "STOPSIGNAL":
		return fmt.Errorf("%s requires exactly one argument", name)
	}
	return fmt.Errorf("%s requires at least one argument", name)
}

// list reads the JSON form of an instruction.
func list(s string) (words []string, ok bool, err error) {
	var all []any
	if !strings.HasPrefix(s, "[") || json.Unmarshal([]byte(s), &all) != nil {
		return nil, false, nil
	}
	words = []string{}
	for _, v := range all {
		word, isText := v.(string)
		if !isText {
			return nil, false, fmt.Errorf("when using JSON array syntax, arrays must be comprised of strings only")
		}
		words = append(words, word)
	}
	return words, true, nil
}

// command is the JSON form, or the line run by the shell.
func (a *applier) command(s string) ([]string, error) {
	words, ok, err := list(s)
	if ok || err != nil {
		return words, err
	}
	shell := a.c.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string(nil), shell...), s), nil
}

func (a *applier) setCommand(s string) (err error) {
	a.c.Cmd, err = a.command(s)
	a.cmdSet = true
	return err
}

func (a *applier) setEntrypoint(s string) (err error) {
	if a.c.Entrypoint, err = a.command(s); !a.cmdSet {
		a.c.Cmd = nil
	}
	return err
}

func (a *applier) setUser(s string) (err error) {
	a.c.User, err = a.word(s)
	return err
}

func (a *applier) setStopSignal(s string) (err error) {
	a.c.StopSignal, err = a.word(s)
	return err
}

func (a *applier) setWorkingDir(s string) error {
	dir, err := a.word(s)
	if err == nil && !path.IsAbs(dir) {
		dir = path.Join(cmp.Or(a.c.WorkingDir, "/"), dir)
	}
	a.c.WorkingDir = dir
	return err
}

func (a *applier) addTrigger(s string) error {
	switch word, _, _ := strings.Cut(strings.ToUpper(s), " "); word {
	case "ONBUILD":
		return fmt.Errorf("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "FROM", "MAINTAINER":
		return fmt.Errorf("%s isn't allowed as an ONBUILD trigger", word)
	}
	a.c.OnBuild = append(a.c.OnBuild, s)
	return nil
}

func (a *applier) setEnv(s string) error {
	pairs, err := a.pairs("ENV", s)
	if err != nil {
		return err
	}
	for _, kv := range pairs {
		kept := a.c.Env[:0:0]
		for _, e := range a.c.Env {
			if !strings.HasPrefix(e, kv[0]+"=") {
				kept = append(kept, e)
			}
		}
		a.c.Env = append(kept, kv[0]+"="+kv[1])
	}
	return nil
}

func (a *applier) setLabels(s string) error {
	pairs, err := a.pairs("LABEL", s)
	if err != nil {
		return err
	}
	if a.c.Labels == nil {
		a.c.Labels = map[string]string{}
	}
	for _, kv := range pairs {
		a.c.Labels[kv[0]] = kv[1]
	}
	return nil
}

func (a *applier) setVolumes(s string) error {
	paths, ok, err := list(s)
	if !ok && err == nil {
		paths = strings.Fields(s)
	}
	switch {
	case err != nil:
		return err
	case len(paths) == 0:
		return fmt.Errorf("VOLUME requires at least one argument")
	}
	if a.c.Volumes == nil {
		a.c.Volumes = map[string]struct{}{}
	}
	for _, raw := range paths {
		p, err := a.word(raw)
		switch {
		case err != nil:
			return err
		case p == "":
			return fmt.Errorf("VOLUME specified can not be an empty string")
		}
		a.c.Volumes[p] = struct{}{}
	}
	return nil
}

// setPorts reads ports, and ranges of them, with a protocol or without. What is before a colon is for the host and says nothing here.
func (a *applier) setPorts(s string) error {
	if a.c.ExposedPorts == nil {
		a.c.ExposedPorts = map[string]struct{}{}
	}
	for _, raw := range strings.Fields(s) {
		text, err := a.word(raw)
		if err != nil {
			return err
		}
		text = text[strings.LastIndexByte(text, ':')+1:]
		number, proto, given := strings.Cut(strings.ToLower(text), "/")
		if given && proto != "tcp" && proto != "udp" && proto != "sctp" {
			return fmt.Errorf("Invalid proto: %s", proto)
		}
		ports, err := network.ParsePortRange(strings.ToLower(text))
		if err != nil || ports.Start() == 0 {
			return fmt.Errorf("Invalid containerPort: %s", number)
		}
		for port := range ports.All() {
			a.c.ExposedPorts[port.String()] = struct{}{}
		}
	}
	return nil
}

// setHealthcheck reads "NONE" or "[--interval=D] [--timeout=D] [--start-period=D] [--start-interval=D] [--retries=N]
// CMD command".
func (a *applier) setHealthcheck(s string) error {
	h := &dockerspec.HealthcheckConfig{}
	for strings.HasPrefix(s, "--") {
		flag, rest, _ := strings.Cut(s, " ")
		if err := setHealthFlag(h, flag); err != nil {
			return err
		}
		s = strings.TrimSpace(rest)
	}
	word, rest, _ := strings.Cut(s, " ")
	rest = strings.TrimSpace(rest)
	switch kind := strings.ToUpper(word); {
	case kind == "NONE" && rest != "":
		return fmt.Errorf("HEALTHCHECK NONE takes no arguments")
	case kind == "NONE":
		h.Test = []string{"NONE"}
	case kind == "CMD" && rest == "":
		return fmt.Errorf("Missing command after HEALTHCHECK CMD")
	case kind == "CMD":
		words, ok, err := list(rest)
		if err != nil {
			return err
		}
		h.Test = []string{"CMD-SHELL", rest}
		if ok {
			h.Test = append([]string{"CMD"}, words...)
		}
	default:
		return fmt.Errorf("Unknown type %q in HEALTHCHECK (try CMD)", word)
	}
	a.c.Healthcheck = h
	return nil
}

func setHealthFlag(h *dockerspec.HealthcheckConfig, flag string) (err error) {
	name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
	durations := map[string]*time.Duration{
		"interval": &h.Interval, "timeout": &h.Timeout,
		"start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
	}
	switch d, ok := durations[name]; {
	case ok:
		if *d, err = time.ParseDuration(value); err == nil && *d != 0 && *d < time.Millisecond {
			err = fmt.Errorf("Interval %q cannot be less than 1ms", name)
		}
	case name == "retries":
		if h.Retries, err = strconv.Atoi(value); err == nil && h.Retries < 1 {
			err = fmt.Errorf("--retries must be at least 1 (not %d)", h.Retries)
		}
	default:
		err = fmt.Errorf("Unknown flag: %s", name)
	}
	return err
}
