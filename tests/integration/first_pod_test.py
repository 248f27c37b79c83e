#!/usr/bin/python3
"""The path of one pod: the runtime's own calls, images, a pod with its network and files, a container's whole life."""
import ipaddress
import os
import re
import time

import cri
import running

# As pid 1 it must trap what it is to obey.
POLITE = 'trap "echo bye; exit 5" TERM; echo ready; while :; do usleep 5000; done'
DEAF = 'trap "" TERM; echo ready; while :; do usleep 5000; done'
WAIT = 'trap "exit 0" TERM; echo ready; while :; do usleep 5000; done'


class Runtime(running.Running):
    def test_about_itself(self):
        version = self.cri.Version()
        self.assertEqual((version.version, version.runtime_name, version.runtime_api_version), ('0.1.0', 'userpod', 'v1'))
        self.assertRegex(version.runtime_version, r'^\d+\.\d+\.\d+')
        status = self.cri.Status(verbose=True)
        conditions = {c.type: c.status for c in status.status.conditions}
        self.assertEqual((conditions['RuntimeReady'], conditions['NetworkReady']), (True, True), status)
        self.assertIn('', [h.name for h in status.runtime_handlers])
        self.assertTrue(status.features.supplemental_groups_policy)
        self.assertIn('config', status.info)
        self.assertEqual(dict(self.cri.Status().info), {})
        self.assertEqual(self.cri.RuntimeConfig().linux.cgroup_driver, cri.api().CGROUPFS)
        self.cri.UpdateRuntimeConfig(runtime_config={'network_config': {'pod_cidr': '10.1.0.0/16'}})

    def test_image_filesystem(self):
        begin = time.time_ns()
        info = self.cri.ImageFsInfo()
        for usage in (info.image_filesystems[0], info.container_filesystems[0]):
            self.assertGreaterEqual(usage.timestamp, begin - 60 * 10**9)
            self.assertTrue(os.path.isdir(usage.fs_id.mountpoint), usage)
        self.assertGreater(info.image_filesystems[0].used_bytes.value, 1 << 19)
        self.assertGreater(info.image_filesystems[0].inodes_used.value, 0)

    def test_calls_that_need_root(self):
        for name in 'CheckpointContainer', 'CheckpointPod', 'RestorePod':
            with self.assertRaises(cri.grpc.RpcError) as refused:
                getattr(self.cri, name)()
            self.assertEqual(refused.exception.code(), cri.Code.UNIMPLEMENTED, name)
            self.assertIn('CRIU', refused.exception.details())


class Images(running.Running):
    def shown(self, name):
        answer = self.cri.ImageStatus(image={'image': name})
        return answer.image if answer.HasField('image') else None

    def pull(self, name, **more):
        ref = self.cri.PullImage(image={'image': name}, **more).image_ref
        self.addCleanup(lambda: self.cri.RemoveImage(image={'image': ref}))
        return ref

    def test_names_of_an_image(self):
        self.assertRegex(self.image, r'^(sha256:)?[0-9a-f]{64}$')
        image = self.shown(running.IMAGE)
        self.assertEqual((image.id, list(image.repo_tags)), (self.image, [running.IMAGE]))
        self.assertGreater(image.size, 0)
        self.assertEqual(len(image.repo_digests), 1)
        self.assertRegex(image.repo_digests[0], rf'^{re.escape(cri.REGISTRY)}/test/busybox@sha256:[0-9a-f]{{64}}$')
        for name in (self.image, self.image.removeprefix('sha256:')[:12], image.repo_digests[0]):
            self.assertEqual(self.shown(name).id, self.image, name)
        self.assertEqual(self.pull(image.repo_digests[0]), self.image)
        # A second tag of the same image, and the tag that is meant when there is none.
        self.assertEqual(self.pull(f'{cri.REGISTRY}/test/busybox'), self.image)
        self.assertEqual(sorted(self.shown(self.image).repo_tags), [running.IMAGE, f'{cri.REGISTRY}/test/busybox:latest'])
        self.assertEqual(len(self.cri.ListImages().images), 1)
        for unknown in ('nosuch:1', f'{cri.REGISTRY}/test/busybox:9', 'abcdef123456', 'sha256:' + '0' * 64):
            self.assertIsNone(self.shown(unknown), unknown)

    def test_kinds_of_manifest(self):
        refs = {name: self.pull(f'{cri.REGISTRY}/test/{name}') for name in ('multi', 'schema2', 'schema2-list', 'busybox:2')}
        listed = {i.id for i in self.cri.ListImages().images}
        self.assertEqual(listed, set(refs.values()) | {self.image})
        self.assertNotEqual(refs['busybox:2'], self.image)
        # The same configuration is the same image, whatever kind of manifest names it.
        for name in ('multi', 'schema2', 'schema2-list'):
            self.assertEqual(refs[name], self.image, name)
        self.assertEqual(len(self.shown(self.image).repo_tags), 4)
        for left, ref in ((1, refs['busybox:2']), (0, self.image)):
            for _ in range(2):
                self.cri.RemoveImage(image={'image': ref})
            self.assertIsNone(self.shown(ref))
            self.assertEqual(len(self.cri.ListImages().images), left)

    def test_user_of_an_image(self):
        self.assertEqual(self.shown(self.pull(f'{cri.REGISTRY}/test/user')).username, 'app')
        self.assertEqual(self.shown(self.pull(f'{cri.REGISTRY}/test/user-numeric')).uid.value, 1234)

    def test_registry_with_tokens(self):
        if not cri.TOKEN_REGISTRY:
            self.skipTest('USERPOD_TOKEN_REGISTRY is not set')
        self.assertEqual(self.pull(f'{cri.TOKEN_REGISTRY}/test/busybox:1'), self.image)
        self.pull(f'{cri.TOKEN_REGISTRY}/test/user')
        private = f'{cri.TOKEN_REGISTRY}/private/test/schema2'
        self.assertEqual(cri.code_of(self.cri.PullImage, image={'image': private}), cri.Code.UNKNOWN)
        self.pull(private, auth={'username': 'test', 'password': 'secret'})

    def test_pulls_that_fail(self):
        for name in ('busybox:9', 'nosuch', 'arm64-only'):
            with self.assertRaises(cri.grpc.RpcError) as failed:
                self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/{name}'})
            self.assertIn(f'test/{name.partition(":")[0]}', failed.exception.details())
        self.assertEqual(cri.code_of(self.cri.PullImage, image={'image': '127.0.0.1:1/test/x'}), cri.Code.UNKNOWN)

    def test_an_image_in_use_stays(self):
        pod = self.pod()
        container = self.container(pod, WAIT, start=False)
        self.assertNotEqual(cri.code_of(self.cri.RemoveImage, image={'image': self.image}), cri.Code.OK)
        self.assertIsNotNone(self.shown(self.image))
        self.cri.RemoveContainer(container_id=container)


class Pods(running.Running):
    def exec(self, container, *words, status=0):
        got = self.cri.ExecSync(container_id=container, cmd=words, timeout=20)
        self.assertEqual(got.exit_code, status, got)
        return got.stdout.decode()

    def test_status_and_lists(self):
        begin = time.time_ns()
        pod = self.pod(labels={'app': 'a', 'tier': 'x'}, annotations={'note': 'kept as it is: é\n'})
        other = self.pod('other', labels={'app': 'b', 'tier': 'x'})
        status = self.pod_status(pod)
        self.assertEqual((status.id, status.state), (pod, cri.api().SANDBOX_READY))
        self.assertEqual((status.metadata.name, status.metadata.namespace, status.metadata.attempt), ('pod', 'test', 0))
        self.assertEqual((dict(status.labels)['app'], dict(status.annotations)), ('a', {'note': 'kept as it is: é\n'}))
        self.assertTrue(begin <= status.created_at <= time.time_ns(), status)
        verbose = self.cri.PodSandboxStatus(pod_sandbox_id=pod, verbose=True)
        self.assertTrue(verbose.info)

        def ids(**filter):
            return {p.id for p in self.cri.ListPodSandbox(filter=filter).items}
        self.assertEqual({p.id for p in self.cri.ListPodSandbox().items}, {pod, other})
        self.assertEqual(ids(id=pod[:10]), {pod})
        self.assertEqual(ids(label_selector={'tier': 'x'}), {pod, other})
        self.assertEqual(ids(label_selector={'tier': 'x', 'app': 'b'}), {other})
        self.assertEqual(ids(id='nosuch'), set())
        self.cri.StopPodSandbox(pod_sandbox_id=other[:12])
        self.assertEqual(ids(state={'state': cri.api().SANDBOX_NOTREADY}), {other})
        self.assertEqual(ids(state={'state': cri.api().SANDBOX_READY}), {pod})
        self.assertEqual(self.pod_status(pod[:12]).id, pod)
        self.assertEqual(self.pod(labels={'app': 'a', 'tier': 'x'}), pod)     # a retry gets what was made

    def test_stop_and_remove_again_and_again(self):
        pod = self.pod()
        container = self.container(pod, WAIT)
        for _ in range(2):
            self.cri.StopPodSandbox(pod_sandbox_id=pod)
        self.assertEqual(self.pod_status(pod).state, cri.api().SANDBOX_NOTREADY)
        self.assertEqual(self.state(container), 'EXITED')
        with self.assertRaises(cri.grpc.RpcError):
            self.container(pod, WAIT, 'late')
        for _ in range(2):
            self.cri.RemovePodSandbox(pod_sandbox_id=pod)
        self.assertEqual(cri.code_of(self.cri.PodSandboxStatus, pod_sandbox_id=pod), cri.Code.NOT_FOUND)
        self.assertEqual(cri.code_of(self.cri.ContainerStatus, container_id=container), cri.Code.NOT_FOUND)
        again = self.pod()
        self.assertNotEqual(again, pod)

    def test_network(self):
        one, two = self.pod('one'), self.pod('two')
        addresses = [ipaddress.ip_address(self.pod_status(p).network.ip) for p in (one, two)]
        self.assertNotEqual(*addresses)
        # The default capabilities have no raw sockets, as CRI-O's.
        main = self.container(one, WAIT, linux={'security_context': {'capabilities': {'add_capabilities': ['NET_RAW']}}})
        # Answers each connection with one line.
        self.container(two, 'trap "exit 0" TERM; while :; do echo from two | nc -l -p 8000; done', 'server')
        shown = self.exec(main, 'ip', '-4', 'address', 'show', 'eth0')
        subnet = ipaddress.ip_interface(re.search(r'inet (\S+)', shown)[1])
        self.assertEqual(subnet.ip, addresses[0])
        self.assertIn(addresses[1], subnet.network)
        gateway = re.search(r'default via (\S+)', self.exec(main, 'ip', 'route'))[1]
        self.assertIn(ipaddress.ip_address(gateway), subnet.network)
        self.exec(main, 'ping', '-c', '1', '-W', '5', gateway)
        self.exec(main, 'ping', '-c', '1', '-W', '5', str(addresses[1]))
        cri.wait_until(lambda: b'from two' in self.cri.ExecSync(
            container_id=main, cmd=['nc', '-w', '2', str(addresses[1]), '8000'], timeout=10).stdout, what='an answer of the other pod')
        cri.wait_until(lambda: 'from two' in running.enter(
            'bash', '-c', f'exec 3<>/dev/tcp/{addresses[1]}/8000 && cat <&3', check=False), what='an answer to the node')
        # The host's loopback is not the pod's.
        port = cri.REGISTRY.rpartition(':')[2]
        for where in ('127.0.0.1', gateway, '10.0.2.2'):
            self.exec(main, 'sh', '-c', f'! nc -w 1 {where} {port} < /dev/null')

    def test_files(self):
        pod = self.pod(hostname='a-name', dns_config={'servers': ['192.0.2.53'], 'searches': ['example.org', 'example.net'],
                                                     'options': ['ndots:3']})
        main = self.container(pod, WAIT)
        self.assertEqual(self.exec(main, 'hostname'), 'a-name\n')
        self.assertEqual(self.exec(main, 'cat', '/etc/hostname'), 'a-name\n')
        resolv = self.exec(main, 'cat', '/etc/resolv.conf').split('\n')
        for line in ('nameserver 192.0.2.53', 'search example.org example.net', 'options ndots:3'):
            self.assertIn(line, resolv)
        hosts = self.exec(main, 'cat', '/etc/hosts')
        self.assertRegex(hosts, r'(?m)^127\.0\.0\.1\s+localhost')
        self.assertRegex(hosts, rf'(?m)^{re.escape(self.pod_status(pod).network.ip)}\s+a-name')
        self.assertIn('HOSTNAME=a-name', self.exec(main, 'env').split('\n'))
        other = self.container(pod, WAIT, 'other')
        self.exec(main, 'sh', '-c', 'echo shared > /dev/shm/file')
        self.assertEqual(self.exec(other, 'cat', '/dev/shm/file'), 'shared\n')

    def test_codes(self):
        missing = 'f' * 64
        not_found, invalid, fine = cri.Code.NOT_FOUND, cri.Code.INVALID_ARGUMENT, cri.Code.OK
        for name, code in (('PodSandboxStatus', not_found), ('StopPodSandbox', fine), ('RemovePodSandbox', fine)):
            self.assertEqual(cri.code_of(getattr(self.cri, name), pod_sandbox_id=missing), code, name)
            self.assertEqual(cri.code_of(getattr(self.cri, name), pod_sandbox_id=''), invalid, name)
        for name, code in (('ContainerStatus', not_found), ('StartContainer', not_found), ('StopContainer', fine), ('RemoveContainer', fine)):
            self.assertEqual(cri.code_of(getattr(self.cri, name), container_id=missing), code, name)
            self.assertEqual(cri.code_of(getattr(self.cri, name), container_id=''), invalid, name)
        self.assertEqual(cri.code_of(self.cri.ExecSync, container_id=missing, cmd=['true']), not_found)


class Containers(running.Running):
    def test_life(self):
        pod = self.pod()
        begin = time.time_ns()
        script = 'echo out; echo err >&2; printf no-end; exec 1>&-; exit 3'
        container = self.container(pod, script, start=False, labels={'l': '1'}, annotations={'a': '2'}, stop_signal=cri.api().SIGNAL_SIGUSR1)
        made = self.status(container)
        self.assertEqual((made.id, made.state, made.started_at, made.finished_at), (container, cri.api().CONTAINER_CREATED, 0, 0))
        self.assertTrue(begin <= made.created_at <= time.time_ns())
        # kubelet shows the name to people: of an image given by its id, the name it has.
        self.assertEqual((made.metadata.name, made.image.image, made.image_id), ('main', running.IMAGE, self.image))
        self.assertTrue(made.image_ref)
        self.assertEqual((dict(made.annotations), made.labels['l']), ({'a': '2'}, '1'))
        self.assertEqual(made.log_path, f'{self.logs}/pod/main.log')
        self.assertEqual(made.stop_signal, cri.api().SIGNAL_SIGUSR1)
        self.assertEqual(self.container(pod, script, start=False), container)     # a retry gets what was made
        self.cri.StartContainer(container_id=container)
        cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
        done = self.status(container)
        self.assertEqual((done.exit_code, done.reason), (3, 'Error'))
        # The kernel's file times may be a tick old.
        self.assertTrue(made.created_at <= done.started_at <= done.finished_at + 10_000_000 <= time.time_ns() + 10_000_000, done)
        self.assertNotEqual(cri.code_of(self.cri.StartContainer, container_id=container), cri.Code.OK)
        self.assertNotEqual(cri.code_of(self.cri.ExecSync, container_id=container, cmd=['true']), cri.Code.OK)
        with open(done.log_path, encoding='utf-8') as f:
            log = [running.LINE.fullmatch(line).groups()[1:] for line in f.read().splitlines()]
        self.assertIn(('stderr', 'F', 'err'), log)
        out = [(kind, text) for stream, kind, text in log if stream == 'stdout']
        # A monitor may end an unfinished line with a line of its own.
        self.assertEqual(out[0], ('F', 'out'))
        self.assertEqual(''.join(text for _, text in out[1:]), 'no-end')
        for _ in range(2):
            self.cri.RemoveContainer(container_id=container)
        self.assertTrue(os.path.exists(done.log_path))
        self.assertEqual(cri.code_of(self.cri.ContainerStatus, container_id=container), cri.Code.NOT_FOUND)
        self.assertNotEqual(self.container(pod, script, start=False), container)

    def test_lists(self):
        pod, other = self.pod(), self.pod('other')
        runs = self.container(pod, WAIT, 'runs', labels={'l': '1', 'm': '1'})
        waits = self.container(pod, WAIT, 'waits', start=False, labels={'l': '2', 'm': '1'})
        ended = self.container(other, 'true', 'ended')
        cri.wait_until(lambda: self.state(ended) == 'EXITED', what='the exit')
        self.assertEqual((self.status(ended).exit_code, self.status(ended).reason), (0, 'Completed'))

        def ids(**filter):
            return {c.id for c in self.cri.ListContainers(filter=filter).containers}
        self.assertEqual({(c.id, c.image_id) for c in self.cri.ListContainers().containers},
                         {(c, self.image) for c in (runs, waits, ended)})
        self.assertEqual(ids(id=runs[:10]), {runs})
        self.assertEqual(ids(id='nosuch'), set())
        self.assertEqual(ids(pod_sandbox_id=pod), {runs, waits})
        self.assertEqual(ids(pod_sandbox_id=pod[:10], label_selector={'l': '2'}), {waits})
        self.assertEqual(ids(label_selector={'m': '1'}), {runs, waits})
        for state, found in (('CREATED', waits), ('RUNNING', runs), ('EXITED', ended)):
            self.assertEqual(ids(state={'state': cri.api().ContainerState.Value('CONTAINER_' + state)}), {found})
        self.assertEqual(self.status(runs[:12]).id, runs)

    def test_stop_signal_and_grace(self):
        pod = self.pod()
        polite = self.container(pod, POLITE, 'polite')
        self.wait_for_line('ready', name='polite')
        begin = time.monotonic()
        for _ in range(2):
            self.cri.StopContainer(container_id=polite, timeout=30)
        self.assertLess(time.monotonic() - begin, 10)
        status = self.status(polite)
        self.assertEqual((status.state, status.exit_code, status.reason), (cri.api().CONTAINER_EXITED, 5, 'Error'))
        self.assertEqual(self.texts(name='polite'), ['ready', 'bye'])

    def test_other_stop_signal(self):
        pod = self.pod()
        usr = self.container(pod, POLITE.replace('TERM', 'USR1'), 'usr', stop_signal=cri.api().SIGNAL_SIGUSR1)
        self.wait_for_line('ready', name='usr')
        self.cri.StopContainer(container_id=usr, timeout=30)
        self.assertEqual(self.status(usr).exit_code, 5)

    def test_kill_after_grace(self):
        pod = self.pod()
        deaf = self.container(pod, DEAF, 'deaf')
        self.wait_for_line('ready', name='deaf')
        begin = time.monotonic()
        self.cri.StopContainer(container_id=deaf, timeout=1)
        self.assertGreaterEqual(time.monotonic() - begin, 0.99)
        self.assertEqual((self.status(deaf).exit_code, self.status(deaf).reason), (137, 'Error'))
        at_once = self.container(pod, DEAF, 'at-once')
        self.wait_for_line('ready', name='at-once')
        begin = time.monotonic()
        self.cri.StopContainer(container_id=at_once, timeout=0)
        self.assertLess(time.monotonic() - begin, 5)
        self.assertEqual(self.status(at_once).exit_code, 137)

    def test_a_shorter_grace_counts(self):
        pod = self.pod()
        deaf = self.container(pod, DEAF)
        self.wait_for_line('ready')
        begin = time.monotonic()
        long = self.cri.future('StopContainer', container_id=deaf, timeout=50)
        time.sleep(0.2)
        self.cri.StopContainer(container_id=deaf, timeout=1)
        long.result()
        self.assertLess(time.monotonic() - begin, 20)
        self.assertEqual(self.status(deaf).exit_code, 137)

    def test_removed_while_it_runs(self):
        pod = self.pod()
        container = self.container(pod, DEAF)
        self.wait_for_line('ready')
        self.cri.RemoveContainer(container_id=container)
        self.assertEqual(len(self.cri.ListContainers().containers), 0)

    def test_exec(self):
        pod = self.pod()
        container = self.container(pod, WAIT, working_dir='/tmp', envs=[{'key': 'NAME', 'value': 'a value €'.encode()}])
        got = self.cri.ExecSync(container_id=container, cmd=['sh', '-c', 'pwd; echo e >&2; printf %s "$NAME"; exit 9'])
        self.assertEqual((got.stdout, got.stderr, got.exit_code), ('/tmp\na value €'.encode(), b'e\n', 9))
        self.assertEqual(self.cri.ExecSync(container_id=container, cmd=['sh', '-c', 'kill -9 $$']).exit_code, 137)
        # An OCI spec is JSON: what is not text cannot stand in it, and is refused rather than changed.
        with self.assertRaises(cri.grpc.RpcError) as failed:
            self.container(pod, WAIT, 'bytes', envs=[{'key': 'NAME', 'value': b'\xff'}])
        self.assertEqual(failed.exception.code(), cri.Code.INVALID_ARGUMENT)
        long = self.cri.ExecSync(container_id=container, cmd=['sh', '-c', 'head -c 3000000 /dev/zero; echo end >&2'])
        self.assertEqual((len(long.stdout), long.stderr), (3000000, b'end\n'))
        self.assertEqual(cri.code_of(self.cri.ExecSync, container_id=container, cmd=[]), cri.Code.INVALID_ARGUMENT)
        try:
            self.assertNotEqual(self.cri.ExecSync(container_id=container, cmd=['/no/such']).exit_code, 0)
        except cri.grpc.RpcError as e:
            self.assertIn('/no/such', e.details())

    def test_exec_that_takes_too_long(self):
        pod = self.pod()
        container = self.container(pod, WAIT)
        begin = time.monotonic()
        try:
            got = self.cri.ExecSync(container_id=container, cmd=['sh', '-c', 'sleep 4713 & sleep 4713; true'], timeout=1)
            self.assertNotEqual(got.exit_code, 0)
        except cri.grpc.RpcError as e:
            self.assertEqual(e.code(), cri.Code.DEADLINE_EXCEEDED)
        self.assertLess(time.monotonic() - begin, 15)
        cri.wait_until(lambda: b'4713' not in self.cri.ExecSync(container_id=container, cmd=['ps', '-o', 'args']).stdout,
                       what='the end of what was run')

    def test_a_program_that_is_not_there(self):
        """Create or start says so; no container is left that seems to run."""
        pod = self.pod()
        with self.assertRaises(cri.grpc.RpcError) as failed:
            self.cri.StartContainer(container_id=self.container(pod, '', start=False, command=['/no/such']))
        self.assertIn('/no/such', failed.exception.details())
        for container in self.cri.ListContainers().containers:
            self.assertEqual(self.state(container.id), 'EXITED')

    def test_from_the_image(self):
        ref = self.cri.PullImage(image={'image': f'{cri.REGISTRY}/test/config'}).image_ref
        self.addCleanup(lambda: self.cri.RemoveImage(image={'image': ref}))
        self.addCleanup(self.remove_pods)
        pod = self.pod()
        for name, fields, text in (('cmd', {}, 'entry default'), ('args', {'args': ['other']}, 'entry other'),
                                   ('command', {'command': ['/bin/sh', '-c', 'echo "$FROM_IMAGE $PWD"']}, 'yes /work')):
            container = self.container(pod, '', name, image={'image': ref}, **{'command': [], **fields})
            cri.wait_until(lambda: self.state(container) == 'EXITED', what='the exit')
            self.assertEqual(self.texts(name=name), [text])
            self.assertEqual(self.status(container).stop_signal, cri.api().SIGNAL_SIGUSR1)


if __name__ == '__main__':
    running.main()
