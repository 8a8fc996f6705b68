// A static program without a C library: client ADDRESS says what an HTTP server
// answers, or how long nothing did.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

func main() {
	start := time.Now()
	c, err := net.DialTimeout("tcp", os.Args[1], time.Second)
	if err != nil {
		fmt.Println(err)
		if time.Since(start) < time.Second {
			os.Exit(2) // not an outage: an error at once
		}
		os.Exit(1)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprint(c, "GET /a.txt HTTP/1.0\r\nHost: store.example\r\n\r\n")
	b, err := io.ReadAll(c)
	fmt.Println(string(b), err)
}
