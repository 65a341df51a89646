// Command forward carries connections from a listening socket that it
// inherits as descriptor 3 to an address in the network namespace in which it
// runs. So an API server in a namespace of its own is reached on the
// machine's loopback.
package main

import (
	"io"
	"log"
	"net"
	"os"
	"sync"
)

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: forward ADDRESS:PORT 3<LISTENING-SOCKET")
	}
	l, err := net.FileListener(os.NewFile(3, "listener"))
	if err != nil {
		log.Fatalf("descriptor 3 is no listening socket: %v", err)
	}
	for {
		c, err := l.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go carry(c.(*net.TCPConn), os.Args[1])
	}
}

// carry copies both directions, each closed on its own. A target that refuses
// is told to the client by a reset, which clients take for what it is.
func carry(client *net.TCPConn, target string) {
	defer func() { _ = client.Close() }()
	c, err := net.Dial("tcp", target)
	if err != nil {
		_ = client.SetLinger(0)
		return
	}
	server := c.(*net.TCPConn)
	defer func() { _ = server.Close() }()
	var both sync.WaitGroup
	both.Go(func() { _, _ = io.Copy(server, client); _ = server.CloseWrite() })
	both.Go(func() { _, _ = io.Copy(client, server); _ = client.CloseWrite() })
	both.Wait()
}
