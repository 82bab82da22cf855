package hostapi

import "testing"

func TestLogLimits(t *testing.T) {
	for text, want := range map[string]Log{
		"": {}, "{}": {}, `{"fileBytes":1000000,"files":3}`: {FileBytes: 1_000_000, Files: 3}, `{"discard":true}`: {Discard: true},
	} {
		got, err := DecodeLog(text)
		if err != nil || got != want {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
		if again, err := DecodeLog(got.Encode()); err != nil || again != got {
			t.Errorf("%q: %q is read as %+v, %v", text, got.Encode(), again, err)
		}
	}
	for _, text := range []string{"x", `{"files":-1}`, `{"files":1001}`, `{"fileBytes":-1}`, `{"other":1}`, "{} {}"} {
		if got, err := DecodeLog(text); err == nil {
			t.Errorf("%q is read as %+v", text, got)
		}
	}
	for l, want := range map[Log][2]int64{
		{}: {DefaultLogBytes, DefaultLogFiles}, {FileBytes: 1}: {MinLogBytes, DefaultLogFiles}, {FileBytes: 1 << 20, Files: 1}: {1 << 20, 1},
	} {
		if size, files := l.Bounds(); size != want[0] || int64(files) != want[1] {
			t.Errorf("%+v: %d bytes, %d files", l, size, files)
		}
	}
}

// FuzzLogFiles: a file's name says its offset, and nothing else is taken for a file of a log.
func FuzzLogFiles(f *testing.F) {
	f.Add("stdio.log")
	f.Add("stdio-00000000000000000005.log")
	f.Add("stdio-5.log")
	f.Fuzz(func(t *testing.T, name string) {
		if at, ok := LogOffset(name); ok && (at < 0 || LogFileAt(at) != name) {
			t.Errorf("%q: %d", name, at)
		}
	})
}
