#!/usr/bin/python3
"""client-go at the URLs that the CRI gives, without an API server in between: what crictl exec, attach and port-forward are.

USERPOD_CLIENT_GO is the program that tests/streaming/client-go/build makes; tests/run --long sets it where Go is installed.
"""
import argparse
import os
import unittest

import cri
import kubectl
import kubectl_port_test
import kubectl_test
import running

PROGRAM = os.environ.get('USERPOD_CLIENT_GO', '')


class Direct(kubectl.Kubectl):
    """The tests of kubectl, with its words in the place of crictl's."""
    protocol = ''
    test_copies = None      # kubectl's own

    def start_server(self):
        self.port = None

    def command(self, *words, **_):
        options = argparse.ArgumentParser(exit_on_error=False)
        for name in ('--address', '-c'):
            options.add_argument(name)
        for name in ('-i', '-t'):
            options.add_argument(name, action='store_true')
        split = words.index('--') if '--' in words else len(words)
        options, (action, pod, *ports) = options.parse_known_args(words[:split])
        pod = next(id for id, config in self.configs.items() if config['metadata']['name'] == pod)
        container = next((c.id for c in self.cri.ListContainers(filter={'pod_sandbox_id': pod}).containers if c.metadata.name == (options.c or 'main')), None)
        streams = {'stdin': options.i, 'stdout': True, 'stderr': not options.t, 'tty': options.t}
        try:
            if action == 'exec':
                url = self.cri.Exec(container_id=container, cmd=words[split + 1:], **streams).url
            elif action == 'attach':
                url = self.cri.Attach(container_id=container, **streams).url
            else:
                url = self.cri.PortForward(pod_sandbox_id=pod).url
        except cri.grpc.RpcError as error:
            return ['/bin/sh', '-c', 'echo "Error: $1" >&2; exit 1', 'sh', error.details()]
        self.port = url.split(':')[2].split('/')[0]
        return [*self.prefix, PROGRAM, '-r', 'websocket' if self.websockets else 'spdy', *(['-p', self.protocol] if self.protocol else []),
                *(['-i'] if options.i else []), *(['-t'] if options.t else []), action.replace('-', ''), url, *ports]

    def streams(self):
        """As many as the server has connections."""
        with open('/proc/net/tcp', encoding='ascii') as f:
            ends = [line.split()[1:4] for line in f][1:]
        return [there for here, there, state in ends if state == '01' and int(here.split(':')[1], 16) == int(self.port)]

    def logged(self):
        return ''

    def check_protocol(self, stream):
        pass    # there is no fall-back


class Exec(Direct, kubectl_test.Exec):
    pass


class ExecByWebSocket(Exec):
    websockets = True


@kubectl.only('test_words_arrive_as_they_are', 'test_output_of_a_terminal', 'test_a_reader_that_goes', 'test_a_slow_reader_loses_nothing')
class ExecByOldSpdy(Exec):
    protocol = 'v3.channel.k8s.io'      # exit statuses began with v4


@kubectl.only('test_streams_and_exit_status', 'test_terminal')
class ExecInNode(Exec):
    prefix = kubectl.ENTER


class Attach(Direct, kubectl_test.Attach):
    pass


class AttachByWebSocket(Attach):
    websockets = True


class PortForward(Direct, kubectl_port_test.PortForward):
    pass


class PortForwardInTunnel(PortForward):
    websockets = True


if __name__ == '__main__':
    if not PROGRAM:
        cri.skip('USERPOD_CLIENT_GO is not set: tests/streaming/client-go/build makes it')
    unittest.TestCase.maxDiff = 2000
    running.main()
