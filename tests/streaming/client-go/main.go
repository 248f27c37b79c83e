// client-go speaks to a URL that the CRI gave, as crictl makes it do: the executors for SPDY and WebSocket, the port
// forwarder, unchanged.  What it prints and how it ends is kubectl's way.
//
//	client-go [-r spdy|websocket] [-p PROTOCOL] [-i] [-t] exec|attach URL
//	client-go [-r spdy|websocket] portforward URL [LOCAL]:REMOTE...
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/term"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/exec"
)

var (
	transport = flag.String("r", "spdy", "spdy or websocket")
	protocol  = flag.String("p", "", "the only sub-protocol to ask for")
	in        = flag.Bool("i", false, "with stdin")
	tty       = flag.Bool("t", false, "with a terminal")
)

func executor(config *rest.Config, at *url.URL) (remotecommand.Executor, error) {
	if *transport == "websocket" {
		if *protocol != "" {
			return remotecommand.NewWebSocketExecutorForProtocols(config, http.MethodGet, at.String(), *protocol)
		}
		return remotecommand.NewWebSocketExecutor(config, http.MethodGet, at.String())
	}
	carrier, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	if *protocol != "" {
		return remotecommand.NewSPDYExecutorForProtocols(carrier, upgrader, http.MethodPost, at, *protocol)
	}
	return remotecommand.NewSPDYExecutorForTransports(carrier, upgrader, http.MethodPost, at)
}

// The sizes of our own terminal, now and whenever it changes.
type sizes struct{ changed chan os.Signal }

func (s sizes) Next() *remotecommand.TerminalSize {
	if _, open := <-s.changed; !open {
		return nil
	}
	width, height, err := term.GetSize(0)
	if err != nil {
		return nil
	}
	return &remotecommand.TerminalSize{Width: uint16(width), Height: uint16(height)}
}

func command(config *rest.Config, at *url.URL) error {
	made, err := executor(config, at)
	if err != nil {
		return err
	}
	options := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: *tty}
	if *in {
		options.Stdin = os.Stdin
	}
	if !*tty {
		options.Stderr = os.Stderr
	} else if term.IsTerminal(0) {
		before, err := term.MakeRaw(0)
		if err != nil {
			return err
		}
		defer term.Restore(0, before)
		changed := make(chan os.Signal, 1)
		signal.Notify(changed, syscall.SIGWINCH)
		changed <- syscall.SIGWINCH
		options.TerminalSizeQueue = sizes{changed}
	}
	return made.StreamWithContext(context.Background(), options)
}

func forward(config *rest.Config, at *url.URL, ports []string) error {
	var dialer httpstream.Dialer
	var err error
	if *transport == "websocket" {
		dialer, err = portforward.NewSPDYOverWebsocketDialer(at, config)
	} else {
		var carrier http.RoundTripper
		var upgrader spdy.Upgrader
		if carrier, upgrader, err = spdy.RoundTripperFor(config); err == nil {
			dialer = spdy.NewDialer(upgrader, &http.Client{Transport: carrier}, http.MethodPost, at)
		}
	}
	if err != nil {
		return err
	}
	forwarder, err := portforward.NewOnAddresses(dialer, []string{"127.0.0.1"}, ports, make(chan struct{}), make(chan struct{}),
		os.Stdout, os.Stderr)
	if err != nil {
		return err
	}
	return forwarder.ForwardPorts()
}

func run() error {
	flag.Parse()
	words := flag.Args()
	if len(words) < 2 || (*transport != "spdy" && *transport != "websocket") {
		return errors.New("usage: client-go [-r spdy|websocket] [-p PROTOCOL] [-i] [-t] exec|attach|portforward URL [PORT...]")
	}
	at, err := url.Parse(words[1])
	if err != nil {
		return err
	}
	config := &rest.Config{}
	if words[0] == "portforward" {
		return forward(config, at, words[2:])
	}
	return command(config, at)
}

func main() {
	var ended exec.CodeExitError
	err := run()
	if errors.As(err, &ended) {
		fmt.Fprintf(os.Stderr, "command terminated with exit code %d\n", ended.Code)
		os.Exit(ended.Code)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}
