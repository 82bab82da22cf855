package logconf

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/api/types/container"

	"github.com/containervm/containervm/hostd-bridge/hostapi"
)

// config makes a configuration of "driver key=value ...".
func config(text string) container.LogConfig {
	words := strings.Fields(text + " ")
	c := container.LogConfig{Config: map[string]string{}}
	for _, w := range words {
		if k, v, ok := strings.Cut(w, "="); ok {
			c.Config[k] = v
		} else {
			c.Type = w
		}
	}
	return c
}

func TestHost(t *testing.T) {
	for text, want := range map[string]hostapi.Log{
		"":                                 {},
		"local":                            {},
		"json-file max-file=2":             {Files: 2},
		"max-size=1m":                      {FileBytes: 1_000_000, Files: 1},
		"max-size=1m max-file=3":           {FileBytes: 1_000_000, Files: 3},
		"local max-size=10k":               {FileBytes: 10_000},
		"local max-size=0":                 {},
		"none":                             {Discard: true},
		"json-file compress=false":         {},
		"json-file mode=blocking labels=a": {},
	} {
		if err := Check(config(text)); err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if got, err := Host(config(text)); err != nil || got != want {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
}

// TestRefused has Docker's words, by dockerd 20.10, where it refuses too.
func TestRefused(t *testing.T) {
	for text, says := range map[string]string{
		"foo":                        `error looking up logging plugin foo: plugin "foo" not found`,
		"foo=1":                      "unknown log opt 'foo' for json-file log driver",
		"local tag=1":                "unknown log opt 'tag' for log driver local",
		"none max-size=1m":           "unknown log opt 'max-size' for none log driver",
		"max-size=0":                 "failed to initialize logging driver: max-size must be a positive number",
		"max-size=x":                 "failed to initialize logging driver: invalid size: 'x'",
		"max-size=-1":                "failed to initialize logging driver: invalid size: '-1'",
		"max-size=":                  "failed to initialize logging driver: invalid size: ''",
		"max-size=1m max-file=0":     "failed to initialize logging driver: max-file cannot be less than 1",
		"max-size=1m max-file=x":     `failed to initialize logging driver: strconv.Atoi: parsing "x": invalid syntax`,
		"max-file=1001":              "max-file cannot be more than 1000",
		"compress=maybe":             `failed to initialize logging driver: strconv.ParseBool: parsing "maybe": invalid syntax`,
		"mode=foo":                   "logger: logging mode not supported: foo",
		"max-buffer-size=1m":         "logger: max-buffer-size option is only supported with 'mode=non-blocking'",
		"tag={{.Foo}}":               "failed to initialize logging driver: template: log-tag:1:2: executing \"log-tag\" at <.Foo>: can't evaluate field Foo",
		"tag={{":                     "failed to initialize logging driver: template: log-tag:1: unclosed action",
		"labels-regex=(":             "failed to initialize logging driver: error parsing regexp: missing closing ): `(`",
		"tag={{range.Name}}x{{end}}": "cannot read the tag",
	} {
		if err := Check(config(text)); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v, want %q", text, err, says)
		}
	}
	for _, text := range []string{"syslog", "journald a=b", "compress=true", "local compress=true", "mode=non-blocking", "mode=non-blocking max-buffer-size=1m"} {
		if err := Check(config(text)); !errdefs.IsNotImplemented(err) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestDetails(t *testing.T) {
	of := &container.Config{Image: "base", Env: []string{"E=v", "ELSE=w", "F"}, Labels: map[string]string{"a": "1", "b": "x y", "c": "3"}}
	names := Names{ID: "b1aba334f42a00", Name: "dt", ImageID: "sha256:0123456789abcdef"}
	for text, want := range map[string]string{
		"": "",
		"labels=a,b,none env=E tag={{.Name}}/{{.ID}}": "E=v,a=1,b=x+y,tag=dt%2Fb1aba334f42a",
		"labels-regex=^[bc]$ env-regex=^EL":           "ELSE=w,b=x+y,c=3",
		"tag={{.ImageName}}-{{.ImageID}}":             "tag=base-0123456789ab",
	} {
		if got := Details(config(text), of, names); got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

// FuzzCheck: what is taken can be done, whatever a client writes.
func FuzzCheck(f *testing.F) {
	f.Add("json-file", "max-size", "1m")
	f.Add("json-file", "tag", "{{.Name}}{{template \"log-tag\"}}")
	f.Fuzz(func(t *testing.T, driver, key, value string) {
		c := container.LogConfig{Type: driver, Config: map[string]string{key: value}}
		if Check(c) != nil {
			return
		}
		l, err := Host(c)
		if err == nil {
			_, err = hostapi.DecodeLog(l.Encode())
		}
		if err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		Details(c, &container.Config{}, Names{})
	})
}
