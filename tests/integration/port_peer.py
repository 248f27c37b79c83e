#!/usr/bin/python3
"""What a pod serves in tests of host ports, until its standard input ends:  port_peer.py [tcp:PORT|udp:PORT]...

A TCP connection is told "ADDRESS PORT" of its peer in a line, then gets back what it sends; the word "reset" at the
start of what comes resets it, "flood" sends 64 MiB whether they are read or not.  A datagram is answered by
"ADDRESS PORT " and itself.  IPv4 and IPv6, each on a socket of its own.  Prints "ready"."""
import os
import socket
import struct
import sys
import threading

FLOOD = 64 << 20


def serve_connection(connection, peer):
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        connection.sendall(f'{peer[0]} {peer[1]}\n'.encode())
        while data := connection.recv(1 << 16):
            if data.startswith(b'reset'):
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
                break
            if data.startswith(b'flood'):
                for _ in range(FLOOD >> 16):
                    connection.sendall(bytes(1 << 16))
                break
            connection.sendall(data)
    except OSError:
        pass
    connection.close()


def serve_tcp(listener):
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=serve_connection, args=(connection, peer), daemon=True).start()


def serve_udp(sock):
    while True:
        try:
            data, peer = sock.recvfrom(1 << 16)
            sock.sendto(f'{peer[0]} {peer[1]} '.encode() + data, peer)
        except OSError:
            pass


def main():
    for argument in sys.argv[1:]:
        protocol, port = argument.split(':')
        for family in (socket.AF_INET, socket.AF_INET6):
            sock = socket.socket(family, socket.SOCK_STREAM if protocol == 'tcp' else socket.SOCK_DGRAM)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(('::' if family == socket.AF_INET6 else '0.0.0.0', int(port)))
            if protocol == 'tcp':
                sock.listen(1024)
            threading.Thread(target=serve_tcp if protocol == 'tcp' else serve_udp, args=(sock,), daemon=True).start()
    print('ready', flush=True)
    sys.stdin.read()
    os._exit(0)


main()
