package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// list reads numbers from 1 to limit, with commas between, into into.
func list(into *[]int, limit int) func(string) error {
	return func(text string) error {
		var all []int
		for word := range strings.SplitSeq(text, ",") {
			n, err := strconv.Atoi(word)
			if err != nil || n < 1 || n > limit {
				return fmt.Errorf("cannot use %q: want numbers from 1 to %d such as 32,512", word, limit)
			}
			all = append(all, n)
		}
		*into = all
		return nil
	}
}

func seconds(s ...int) (all []time.Duration) {
	for _, n := range s {
		all = append(all, time.Duration(n)*time.Second)
	}
	return all
}
