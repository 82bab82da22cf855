package main

import (
	"slices"
	"testing"
	"time"

	"github.com/containervm/containervm/bench/internal/measure"
)

func TestDecodeFork(t *testing.T) {
	f, err := decodeFork([]byte(`{"Id": "x", "Fork": {"Kind": "fork", "Template": "t", "Generation": 2, "Index": 7,
		"Receipt": [{"name": "entropy", "outcome": "done", "micros": 250, "detail": ""}],
		"Timeline": [{"name": "hello", "unixNano": 3000000}, {"name": "prepared", "unixNano": 500000}, {"name": "hello", "unixNano": 4000000}, {"name": "api", "unixNano": 1500000}]}}`))
	if err != nil || f.Kind != runtimeFork || f.Template != "t" || f.Generation != 2 || f.Index != 7 || f.Receipt[0].Outcome != "done" {
		t.Fatalf("decodeFork = %+v, %v", f, err)
	}
	got := f.marks(time.Unix(0, 1000000))
	want := []measure.Mark{{Name: "api", Value: 0.5}, {Name: markHello, Value: 2}, {Name: markHello + fromGuest, Value: 3}, {Name: "entropy", Of: ofReceipt, Value: 0.25}}
	if !slices.Equal(got, want) {
		t.Errorf("marks = %v, want %v", got, want)
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
