package main

import (
	"fmt"
	"net/http"
	"os"
	"strconv"
	"sync/atomic"
	"time"
)

// sibling counts up: on its disk, on its output and for those who ask on port 80. A count that cannot be written ends it.
func sibling([]string) {
	var count atomic.Int64
	go func() {
		err := http.ListenAndServe(":80", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintf(w, "sibling %d", count.Load()) }))
		fmt.Println("cannot serve:", err)
		os.Exit(1)
	}()
	f, err := os.Create("/count")
	if err != nil {
		fmt.Println("cannot count:", err)
		os.Exit(1)
	}
	for ; ; time.Sleep(50 * time.Millisecond) {
		n := count.Add(1)
		_, err := f.WriteAt(strconv.AppendInt(nil, n, 10), 0)
		if err == nil {
			err = f.Sync()
		}
		if err != nil {
			fmt.Println("cannot count:", err)
			os.Exit(1)
		}
		fmt.Println("count", n)
	}
}
