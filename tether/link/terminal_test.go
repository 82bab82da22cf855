package link_test

import (
	"testing"

	"github.com/containervm/containervm/tether/link/linktest"
	tetherv1 "github.com/containervm/containervm/tether/link/v1"
)

func TestTerminal(t *testing.T) {
	f := linktest.NewTether(t)
	c := f.Client()
	exec(t, c, "t", &tetherv1.Process{Args: []string{"sleep"}, Tty: true, Window: &tetherv1.Window{Rows: 24, Columns: 80}})
	resize := &tetherv1.ResizeRequest{Session: "t", Window: &tetherv1.Window{Rows: 50, Columns: 132}}
	if _, err := c.Tether().Resize(testContext(t), resize); err != nil {
		t.Fatal(err)
	}
	if w := f.Process("t").Windows(); len(w) != 2 || w[1].Columns != 132 {
		t.Errorf("windows %v", w)
	}
	if _, err := c.Tether().Signal(testContext(t), &tetherv1.SignalRequest{Session: "t", Signal: 9}); err != nil {
		t.Fatal(err)
	}
	if exit := wait(t, c, "t"); exit.Code != 137 {
		t.Errorf("exit %v", exit)
	}
}
