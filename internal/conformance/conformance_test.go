package conformance

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containervm/containervm/internal/vmtest"
)

const differencesFile = "testdata/differences.txt"

// sessions are the files of all sessions, by name.
func sessions(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("testdata/sessions/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no sessions: %v", err)
	}
	all := map[string]string{
		"python": "testdata/clients/python.txt", "compose1": "testdata/clients/compose.txt", "compose2": "testdata/clients/compose.txt",
	}
	for _, file := range files {
		all[strings.TrimSuffix(filepath.Base(file), ".txt")] = file
	}
	return all
}

func read(t *testing.T, file string) []Step {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	steps, err := Parse(string(text))
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	return steps
}

// TestSessions runs the sessions of testdata on both sides: those of the command line, and those of other clients.
func TestSessions(t *testing.T) {
	all := sessions(t)
	c := newComparison(t)
	p := newPair(t)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		t.Run(name, func(t *testing.T) {
			p.client(t, name)
			c.session(t, p, all[name], name)
		})
	}
	t.Run("keys", p.testKeys)
	c.end(t)
}

// client finds the client of a session that needs one beside the command line; it skips the test without it, and those of the long form.
func (p *pair) client(t *testing.T, session string) {
	t.Helper()
	long := os.Getenv("CVM_TEST_LONG") == "1"
	switch session {
	case "plugins":
		if !long {
			t.Skip("takes a minute: set CVM_TEST_LONG=1")
		}
	case "python":
		if err := exec.CommandContext(t.Context(), "/usr/bin/python3", "-c", "import docker").Run(); err != nil {
			vmtest.Missing(t, "/usr/bin/python3 has no module docker; try: apt-get install python3-docker")
		}
	case "compose1":
		vmtest.NeedProgram(t, "docker-compose", "docker-compose")
		p.setEnv("COMPOSE", "docker-compose")
	case "compose2":
		if !long {
			t.Skip("its client is a large program to build: set CVM_TEST_LONG=1, and try: make bin/compose-v2")
		}
		program, err := filepath.Abs("../../bin/compose-v2")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(program); err != nil {
			vmtest.Missing(t, fmt.Sprintf("%v; try: make bin/compose-v2", err))
		}
		p.setEnv("COMPOSE", program)
	}
}

// comparison is a run of the suite: what is known, and what it finds.
type comparison struct {
	known  Differences
	update bool
	ran    map[string]bool
	found  Differences
}

func newComparison(t *testing.T) *comparison {
	t.Helper()
	text, err := os.ReadFile(differencesFile)
	if err != nil {
		t.Fatal(err)
	}
	known, err := ParseDifferences(string(text))
	if err != nil {
		t.Fatalf("%s: %v", differencesFile, err)
	}
	return &comparison{known: known, update: os.Getenv("CVM_CONFORMANCE_UPDATE") == "1", ran: map[string]bool{}}
}

// session runs one on both sides, in step, and leaves both as they were.
func (c *comparison) session(t *testing.T, p *pair, file, name string) {
	steps := read(t, file)
	c.ran[name] = true
	t.Cleanup(func() { p.both(func(s *side) { s.reset(t) }) })
	for _, s := range []*side{p.theirs, p.ours} {
		if err := os.Mkdir(filepath.Join(s.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range steps {
		theirs, ours := p.step(t, name, step)
		if t.Failed() && !step.Compared {
			return
		}
		if lines := Compare(theirs, ours); step.Compared && len(lines) > 0 {
			c.differs(t, Difference{Session: name, Key: step.Key, Lines: lines}, fmt.Sprintf("%s:%d", file, step.Line))
		}
	}
}

// differs takes a difference that was found, and fails the test unless it is known as it is.
func (c *comparison) differs(t *testing.T, d Difference, where string) {
	t.Helper()
	known := c.known.Find(d.Session, d.Key)
	if known != nil {
		d.Why = known.Why
	}
	c.found = append(c.found, d)
	switch is := strings.Join(d.Lines, "\n"); {
	case c.update:
	case known == nil:
		t.Errorf("%s: %s\ndiffers (- dockerd, + ours):\n%s", where, d.Key, is)
	case strings.Join(known.Lines, "\n") != is:
		t.Errorf("%s: %s\ndiffers (- dockerd, + ours), and not as it is listed:\n%s\nlisted:\n%s", where, d.Key, is, strings.Join(known.Lines, "\n"))
	}
}

// end fails the test for differences that are gone, and for those without a reason; or writes the list.
func (c *comparison) end(t *testing.T) {
	var list Differences // what would stay: what was found, and what belongs to sessions that were not run
	for _, d := range c.known {
		if !c.ran[d.Session] {
			list = append(list, d)
		} else if found := c.found.Find(d.Session, d.Key); found == nil && !c.update {
			t.Errorf("[%s] %s: %s lists it, and it differs no more, or is no command of the session", d.Session, d.Key, differencesFile)
		}
	}
	if c.update {
		if err := os.WriteFile(differencesFile, []byte(append(list, c.found...).Format()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// both does something for the two sides at once.
func (p *pair) both(do func(s *side)) {
	var wg sync.WaitGroup
	wg.Go(func() { do(p.theirs) })
	wg.Go(func() { do(p.ours) })
	wg.Wait()
}

// step runs a command on both sides.
func (p *pair) step(t *testing.T, session string, step Step) (theirs, ours Output) {
	t.Helper()
	var mu sync.Mutex
	p.both(func(s *side) {
		begin := time.Now()
		stdout, stderr, status, err := s.run(t.Context(), session, step.Command)
		mu.Lock()
		t.Logf("%-11s %6d ms %s", s.name, time.Since(begin).Milliseconds(), step.Command)
		defer mu.Unlock()
		if err != nil || !step.Compared && status != 0 {
			t.Errorf("%s: %s: exit %d, %v\n%s%s", s.name, step.Command, status, err, stdout, stderr)
		}
		out := Output{s.normal.Lines(stdout), s.normal.Lines(stderr), status}
		if s == p.theirs {
			theirs = out
		} else {
			ours = out
		}
	})
	return theirs, ours
}
