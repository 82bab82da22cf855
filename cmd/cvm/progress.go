package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/moby/moby/api/types/jsonstream"
	"github.com/moby/term"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/containervm/containervm/internal/printable"
)

// showProgress prints a stream of progress messages and returns the error that it ends with, if any: as bars on a
// terminal, else as a line for each new status of each layer.
func (a *app) showProgress(r io.Reader) error {
	if _, terminal := term.GetFdInfo(a.err); terminal {
		b := &bars{out: a.out, all: mpb.New(mpb.WithOutput(a.err)), byID: map[string]*layerBar{}}
		defer b.end()
		return eachMessage(r, b.show)
	}
	l := &progressLines{out: a.out, last: map[string]string{}}
	return eachMessage(r, l.show)
}

// eachMessage decodes Docker's stream of JSON objects. An error in the stream ends it.
func eachMessage(r io.Reader, show func(jsonstream.Message)) error {
	for dec := json.NewDecoder(r); ; {
		var m jsonstream.Message
		switch err := dec.Decode(&m); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("cannot read the host's answer: %w", err)
		case m.Error != nil:
			return m.Error
		}
		show(m)
	}
}

// progressLines prints for machines and log files: nothing twice, no percentages.
type progressLines struct {
	out  io.Writer
	last map[string]string // status by layer
}

func (l *progressLines) show(m jsonstream.Message) {
	switch {
	case m.Stream != "":
		fmt.Fprint(l.out, printable.Text(m.Stream))
	case m.ID == "" && m.Status != "":
		fmt.Fprintln(l.out, printable.Text(m.Status))
	case m.Status != "" && l.last[m.ID] != m.Status:
		l.last[m.ID] = m.Status
		fmt.Fprintf(l.out, "%s: %s\n", printable.Text(m.ID), printable.Text(m.Status))
	}
}

// bars draws one bar for each layer; what has no layer is printed when the bars have ended.
type bars struct {
	out  io.Writer
	all  *mpb.Progress
	byID map[string]*layerBar
	text strings.Builder
}

// layerBar is one layer's bar; status is read when the bar is drawn.
type layerBar struct {
	bar    *mpb.Bar
	status chan string // holds the newest status
	shown  string      // used by the drawing goroutine alone
}

func (b *bars) show(m jsonstream.Message) {
	if m.ID == "" {
		b.text.WriteString(m.Stream)
		if m.Status != "" {
			b.text.WriteString(m.Status + "\n")
		}
		return
	}
	l := b.byID[m.ID]
	if l == nil {
		l = b.add(m.ID)
		b.byID[m.ID] = l
	}
	l.setStatus(m.Status)
	if m.Progress != nil && m.Progress.Total > 0 {
		l.bar.SetTotal(m.Progress.Total, false)
		l.bar.SetCurrent(m.Progress.Current)
	}
}

func (b *bars) add(id string) *layerBar {
	l := &layerBar{status: make(chan string, 1)}
	l.bar = b.all.AddBar(0,
		mpb.PrependDecorators(decor.Name(clip(id, 12)+" "), decor.Any(func(decor.Statistics) string { return l.newest() })),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f")),
	)
	return l
}

func (l *layerBar) setStatus(s string) {
	select {
	case <-l.status: // nobody has drawn the older one
	default:
	}
	l.status <- s
}

func (l *layerBar) newest() string {
	select {
	case l.shown = <-l.status:
	default:
	}
	return fmt.Sprintf("%-20s", clip(l.shown, 20))
}

// end stops the drawing, so that it leaves the terminal in order also after an error or Ctrl-C.
func (b *bars) end() {
	for _, l := range b.byID {
		l.bar.SetTotal(-1, true) // the current value is the total
	}
	b.all.Wait()
	fmt.Fprint(b.out, printable.Text(b.text.String()))
}
