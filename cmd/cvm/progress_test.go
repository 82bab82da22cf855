package main

import (
	"io"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/moby/moby/api/types/jsonstream"
)

const loadStream = `{"status":"Loading layer","id":"aaaaaaaaaaaaaaaa","progressDetail":{"current":1,"total":2}}
{"status":"Loading layer","id":"aaaaaaaaaaaaaaaa","progressDetail":{"current":2,"total":2}}
{"status":"done","id":"aaaaaaaaaaaaaaaa"}
{"status":"waiting","id":"bb"}
{"stream":"Loaded image: x\n"}
`

func TestProgressLines(t *testing.T) {
	var b strings.Builder
	a := &app{out: &b, err: io.Discard}
	err := a.showProgress(strings.NewReader(loadStream + `{"errorDetail":{"message":"no space"},"error":"no space"}`))
	if err == nil || err.Error() != "no space" {
		t.Errorf("error %v", err)
	}
	if want := "aaaaaaaaaaaaaaaa: Loading layer\naaaaaaaaaaaaaaaa: done\nbb: waiting\nLoaded image: x\n"; b.String() != want {
		t.Errorf("got %q, want %q", b.String(), want)
	}
}

// TestProgressBars draws on a real terminal. It must come to an end also when a layer has not.
func TestProgressBars(t *testing.T) {
	for _, last := range []string{"", `{"errorDetail":{"message":"no space"}}`, `{"broken`} {
		far, near, err := pty.Open()
		if err != nil {
			t.Fatal(err)
		}
		if err := pty.Setsize(near, &pty.Winsize{Rows: 24, Cols: 100}); err != nil {
			t.Fatal(err)
		}
		drawn := make(chan string, 1)
		go func() { b, _ := io.ReadAll(far); drawn <- string(b) }() // ends with EIO when near is closed
		var out strings.Builder
		err = (&app{out: &out, err: near}).showProgress(strings.NewReader(loadStream + last))
		near.Close()
		if (err != nil) != (last != "") {
			t.Errorf("after %q: %v", last, err)
		}
		if text := <-drawn; !strings.Contains(text, "aaaaaaaaaaa") {
			t.Errorf("no bar for the layer: %q", text)
		}
		if out.String() != "Loaded image: x\n" {
			t.Errorf("text %q", out.String())
		}
		far.Close()
	}
}

func FuzzEachMessage(f *testing.F) {
	f.Add(loadStream)
	f.Add(`{"errorDetail":{}}{"aux":{"ID":"x"}}`)
	f.Fuzz(func(t *testing.T, text string) {
		l := &progressLines{out: io.Discard, last: map[string]string{}}
		eachMessage(strings.NewReader(text), func(m jsonstream.Message) { l.show(m) })
	})
}
