package main

import (
	"testing"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

func TestDecodeFork(t *testing.T) {
	f, err := decodeFork([]byte(`{"Id": "x", "Fork": {"Kind": "fork", "Template": "t", "Generation": 2, "Index": 7,
		"Receipt": [{"name": "entropy", "status": "ok", "micros": 250}],
		"Timeline": [{"name": "guest_hello", "unixNano": 3000000}, {"name": "API", "unixNano": 1500000}]}}`))
	if err != nil || f.Kind != runtimeFork || f.Template != "t" || f.Generation != 2 || f.Index != 7 {
		t.Fatalf("decodeFork = %+v, %v", f, err)
	}
	got := f.marks(time.Unix(0, 1000000))
	want := []measure.Mark{{Name: "api", Value: 0.5}, {Name: markHello, Value: 2}, {Name: "entropy", Of: ofReceipt, Value: 0.25}}
	if len(got) != len(want) {
		t.Fatalf("marks = %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("mark %d = %v, want %v", i, got[i], want[i])
		}
	}
}

// A host without forks has no such key.
func TestDecodeForkOfAnyDocker(t *testing.T) {
	if f, err := decodeFork([]byte(`{"Id": "x"}`)); err != nil || f.Kind != "" || len(f.marks(time.Now())) != 0 {
		t.Errorf("decodeFork = %+v, %v", f, err)
	}
	if _, err := decodeFork([]byte(`{"Fork": 3}`)); err == nil {
		t.Error("a number was taken for a report")
	}
}
