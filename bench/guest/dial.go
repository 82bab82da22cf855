package main

import (
	"fmt"
	"io"
	"net"
	"time"
)

// roundTrips is how many a dial takes the mean of.
const roundTrips = 200

// dial asks a server and says how long the bytes took one way, or a round trip. A first round trip, before the clock starts, has each side
// know the other's address, and its code run.
func dial(address, way string) (time.Duration, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if err := trip(conn); err != nil {
		return 0, err
	}
	begin := time.Now()
	switch way {
	case "p":
		for range roundTrips {
			if err := trip(conn); err != nil {
				return 0, err
			}
		}
		return time.Since(begin) / roundTrips, nil
	case "s":
		if _, err := conn.Write([]byte("s")); err != nil {
			return 0, err
		}
		_, err := io.CopyN(io.Discard, conn, sourceBytes)
		return time.Since(begin), err
	case "u":
		if _, err := conn.Write([]byte("u")); err != nil {
			return 0, err
		}
		if err := source(conn, sourceBytes); err != nil {
			return 0, err
		}
		_, err := io.ReadFull(conn, make([]byte, 1)) // it has all
		return time.Since(begin), err
	}
	return 0, fmt.Errorf("unknown way %q: it is p, s or u", way)
}

func trip(conn net.Conn) error {
	if _, err := conn.Write([]byte("p")); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}
