package api

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/moby/moby/api/types/events"
)

// TestEventFilters: each filter finds what it does in Docker, and nothing else.
func TestEventFilters(t *testing.T) {
	box := events.Message{
		Type: events.ContainerEventType, Action: events.ActionStart, Scope: "local",
		Actor: events.Actor{ID: "0123abcd", Attributes: map[string]string{"name": "web", "image": "busybox:demo", "tier": "front"}},
	}
	exec := box
	exec.Action = "exec_start: sh -c 'ls; date'"
	image := events.Message{
		Type: events.ImageEventType, Action: events.ActionTag, Scope: "local",
		Actor: events.Actor{ID: "sha256:77", Attributes: map[string]string{"name": "example.org/a/tool:1"}},
	}
	net := events.Message{
		Type: events.NetworkEventType, Action: events.ActionConnect, Scope: "local",
		Actor: events.Actor{ID: "99ff", Attributes: map[string]string{"name": "back", "container": "0123abcd"}},
	}
	all := map[string]events.Message{"box": box, "exec": exec, "image": image, "net": net}
	for text, want := range map[string]string{
		`{}`:                       "box exec image net",
		`{"type":["container"]}`:   "box exec",
		`{"event":["start"]}`:      "box",
		`{"event":["exec_start"]}`: "exec",
		`{"event":["exec"]}`:       "",
		`{"event":["exec_start: sh -c 'ls; date'","tag"]}`:      "exec image",
		`{"container":["we"]}`:                                  "box exec",
		`{"container":["0123"]}`:                                "box exec",
		`{"container":["eb"]}`:                                  "",
		`{"image":["busybox"]}`:                                 "box exec",
		`{"image":["busybox:demo"]}`:                            "box exec",
		`{"image":["busybox:other"]}`:                           "",
		`{"image":["example.org/a/tool"]}`:                      "image",
		`{"image":["sha256:77"]}`:                               "image",
		`{"network":["back"]}`:                                  "net",
		`{"label":["tier"]}`:                                    "box exec",
		`{"label":["tier=front","name=web"]}`:                   "box exec",
		`{"label":["tier=back"]}`:                               "",
		`{"scope":["swarm"]}`:                                   "",
		`{"volume":["web"],"type":["container"]}`:               "box exec", // Docker goes by the name alone
		`{"daemon":["x"]}`:                                      "",
		`{"type":{"image":true,"network":true}}`:                "image net",
		`{"type":["container","network"],"container":["0123"]}`: "box exec",
	} {
		f, err := parseFilters(text)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		for _, name := range []string{"box", "exec", "image", "net"} {
			if eventMatches(f, all[name]) {
				if got != "" {
					got += " "
				}
				got += name
			}
		}
		if got != want {
			t.Errorf("%s finds %q, want %q", text, got, want)
		}
	}
}

// TestEventForms: until version 1.52 events of containers and images have three fields more; each form has the fields of the other.
func TestEventForms(t *testing.T) {
	m := events.Message{
		Type: events.ContainerEventType, Action: events.ActionDie, Scope: "local", Time: 1, TimeNano: 1e9,
		Actor: events.Actor{ID: "01", Attributes: map[string]string{"image": "base"}},
	}
	const body = `"Type":"container","Action":"die","Actor":{"ID":"01","Attributes":{"image":"base"}},"scope":"local","time":1,"timeNano":1000000000}` + "\n"
	for old, want := range map[bool]string{false: `{` + body, true: `{"status":"die","id":"01","from":"base",` + body} {
		var out bytes.Buffer
		w := eventWriter{enc: json.NewEncoder(&out), old: old}
		if err := w.write([]events.Message{m}); err != nil || out.String() != want {
			t.Errorf("%s, %v; want %s", out.String(), err, want)
		}
	}
}
