package conformance

import (
	"slices"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	steps, err := Parse("# comment\n$ docker ps\n\n> docker rm aa\n$ docker ps\n")
	want := []Step{{2, "docker ps", true, "docker ps"}, {4, "docker rm aa", false, "docker rm aa"}, {5, "docker ps", true, "docker ps #2"}}
	if err != nil || !slices.Equal(steps, want) {
		t.Errorf("%v, %v; want %v", steps, err, want)
	}
	for _, bad := range []string{"docker ps", "$docker ps", " $ docker ps"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestNormaliser(t *testing.T) {
	n := NewNormaliser("/run/d.sock", "<socket>", "/tmp/dir", "<dir>")
	id := strings.Repeat("0123456789abcdef", 4)
	for in, want := range map[string]string{
		"aa " + id + " bb":                                  "aa <id> bb",
		"NAME     ID\naa       " + id[:12]:                  "NAME  ID|aa  <short id>",
		"2026-11-27T06:53:20.123456789Z x":                  "<time> x",
		"2026-11-27 06:53:20 +0000 UTC":                     "<time>",
		"Up 2 minutes (Paused)":                             "Up <duration> (Paused)",
		"Exited (3) About a minute ago":                     "Exited (3) <duration>",
		"172.17.0.2/16 10.1.2.3":                            "<address>/16 10.1.2.3",
		"02:42:ac:11:00:02":                                 "<mac>",
		"0.0.0.0:49153->80/tcp":                             "0.0.0.0:<port>->80/tcp",
		"127.0.0.1:9501->80/tcp":                            "127.0.0.1:9501->80/tcp",
		"1.2MB (virtual 5.6MB)":                             "<size> (virtual <size>)",
		"Error response from daemon: No such container: Aa": "Error response from daemon: no such container: Aa",
		`{"message":"Container x"}`:                         `{"message":"container x"}`,
		"unix:///run/d.sock and /tmp/dir/file\r\n":          "unix://<socket> and <dir>/file",
		"": "",
	} {
		if got := strings.Join(n.Lines(in), "|"); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

func TestCompare(t *testing.T) {
	out := func(status int, lines ...string) Output { return Output{Stdout: lines, Status: status} }
	for _, c := range []struct {
		theirs, ours Output
		want         string
	}{
		{out(0, "aa", "bb"), out(0, "aa", "bb"), ""},
		{out(0, "aa", "bb", "cc"), out(0, "aa", "xx", "cc"), "- out: bb|+ out: xx"},
		{out(0, "aa"), out(0, "aa", "bb"), "+ out: bb"},
		{out(0, "aa", "bb"), out(1, "bb"), "- exit: 0|+ exit: 1|- out: aa"},
		{Output{Stderr: []string{"words"}}, Output{}, "- err: words"},
	} {
		if got := strings.Join(Compare(c.theirs, c.ours), "|"); got != c.want {
			t.Errorf("%v and %v differ by %q, want %q", c.theirs, c.ours, got, c.want)
		}
	}
}

func TestDifferencesAreReadAsWritten(t *testing.T) {
	list := Differences{
		{"ps", "docker ps -a | grep '[x] y'", "words of Docker 28", []string{"- out: - aa", "+ err: "}},
		{"ps", "docker ps #2", "", []string{"- exit: 0", "+ exit: 1"}},
	}
	got, err := ParseDifferences(list.Format())
	if err != nil || got.Format() != list.Format() || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	if d := got.Find("ps", list[0].Key); d == nil || d.Why != list[0].Why || !slices.Equal(d.Lines, list[0].Lines) {
		t.Errorf("%+v, want %+v", d, list[0])
	}
	for _, bad := range []string{"why: nothing", "[ps docker", "[ps] aa\n[ps] aa", "[ps] aa\nwords"} {
		if _, err := ParseDifferences(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// The list and the sessions that are here can be read, and each entry is about a command that there is.
func TestListBelongsToSessions(t *testing.T) {
	c := newComparison(t)
	keys := map[string]bool{}
	for name, file := range sessions(t) {
		for _, step := range read(t, file) {
			keys["["+name+"] "+step.Key] = step.Compared
		}
	}
	for _, d := range c.known {
		if !keys["["+d.Session+"] "+d.Key] {
			t.Errorf("[%s] %s is no command that is compared", d.Session, d.Key)
		}
		if d.Why == "" || len(d.Lines) == 0 {
			t.Errorf("[%s] %s: %s does not say why it differs, or how", d.Session, d.Key, differencesFile)
		}
	}
}
