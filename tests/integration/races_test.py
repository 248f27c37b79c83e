#!/usr/bin/python3
"""Clients that give up, repeat themselves, race each other or know only half of an id."""
import concurrent.futures
import os
import threading
import time

import grpc

import cri
import running

SERVICE = 'trap "exit 0" TERM; sleep 3600 & wait'
AT_ONCE = 16
PODS = 30 if cri.SANITIZE else 100


class Races(running.Running):
    def at_once(self, call, count=AT_ONCE):
        """call(i) from so many threads that begin together: their results, and the errors of those that failed."""
        barrier = threading.Barrier(count)

        def one(i):
            barrier.wait()
            return call(i)
        with concurrent.futures.ThreadPoolExecutor(count) as pool:
            futures = [pool.submit(one, i) for i in range(count)]
            concurrent.futures.wait(futures)
        errors = [f.exception() for f in futures if f.exception()]
        return [f.result() for f in futures if not f.exception()], errors

    def pod_config(self, name):
        return {'metadata': {'name': name, 'namespace': 'races', 'uid': f'{self.id()}-{name}', 'attempt': 0},
                'log_directory': f'{self.logs}/{name}', 'linux': {}}

    def container_config(self, name, script=SERVICE):
        return {'metadata': {'name': name}, 'image': {'image': self.image}, 'command': ['/bin/sh', '-c', script],
                'log_path': f'{name}.log', 'linux': {}}

    def create(self, pod, name, config, deadline=60):
        return self.cri.CreateContainer(pod_sandbox_id=pod, sandbox_config=config, config=self.container_config(name),
                                        deadline=deadline).container_id

    def test_work_outlives_the_deadline_and_goes_to_the_retry(self):
        config = self.pod_config('late')
        self.assertEqual(cri.code_of(self.cri.RunPodSandbox, config=config, deadline=0.001), cri.Code.DEADLINE_EXCEEDED)
        pod = self.cri.RunPodSandbox(config=config).pod_sandbox_id
        self.configs[pod] = config
        self.assertEqual([p.id for p in self.cri.ListPodSandbox().items], [pod])
        self.assertEqual(cri.code_of(self.create, pod, 'late', config, deadline=0.001), cri.Code.DEADLINE_EXCEEDED)
        made = self.create(pod, 'late', config)
        self.assertEqual([c.id for c in self.cri.ListContainers().containers], [made])
        # A start that nobody waited for is done all the same. Within a millisecond a client may not even have sent it.
        cri.code_of(self.cri.StartContainer, container_id=made, deadline=0.05)
        cri.wait_until(lambda: self.state(made) == 'RUNNING', what='the start')
        time.sleep(0.5)     # its shell has not said yet what to do at the signal
        # So is a stop, with its grace.
        code = cri.code_of(self.cri.StopContainer, container_id=made, timeout=30, deadline=0.05)
        self.assertIn(code, (cri.Code.DEADLINE_EXCEEDED, cri.Code.OK))
        cri.wait_until(lambda: self.state(made) == 'EXITED', what='the stop')
        self.assertEqual(self.status(made).exit_code, 0)

    def test_a_cancelled_call_is_no_end_of_its_work(self):
        config = self.pod_config('cancelled')
        call = self.cri.future('RunPodSandbox', config=config)
        call.cancel()
        pod = self.cri.RunPodSandbox(config=config).pod_sandbox_id
        self.configs[pod] = config
        self.assertEqual([p.id for p in self.cri.ListPodSandbox().items], [pod])
        self.assertEqual(self.pod_status(pod).state, cri.api().SANDBOX_READY)

    def test_the_same_call_from_many(self):
        config = self.pod_config('same')
        pods, errors = self.at_once(lambda _: self.cri.RunPodSandbox(config=config).pod_sandbox_id)
        self.assertEqual((len(set(pods)), errors), (1, []))
        pod = pods[0]
        self.configs[pod] = config
        made, errors = self.at_once(lambda _: self.create(pod, 'same', config))
        self.assertEqual((len(set(made)), errors), (1, []))
        _, errors = self.at_once(lambda _: self.cri.StartContainer(container_id=made[0]))
        # One of them started it; to the others it was running already.
        self.assertEqual({e.code() for e in errors}, {cri.Code.FAILED_PRECONDITION})
        self.assertEqual(len(errors), AT_ONCE - 1)
        self.assertEqual(self.state(made[0]), 'RUNNING')
        for call in (lambda _: self.cri.StopContainer(container_id=made[0], timeout=20),
                     lambda _: self.cri.RemoveContainer(container_id=made[0]),
                     lambda _: self.cri.StopPodSandbox(pod_sandbox_id=pod),
                     lambda _: self.cri.RemovePodSandbox(pod_sandbox_id=pod)):
            _, errors = self.at_once(call)
            self.assertEqual(errors, [])
        self.assertEqual(list(self.cri.ListPodSandbox().items), [])

    def test_a_pod_is_stopped_while_its_containers_are_made(self):
        for remove in (False, True):
            config = self.pod_config(f'stopped-{remove}')
            pod = self.cri.RunPodSandbox(config=config).pod_sandbox_id
            self.configs[pod] = config
            begun = threading.Event()

            def make(i, pod=pod, config=config, begun=begun):
                made = self.create(pod, f'c{i}', config)
                begun.set()
                self.cri.StartContainer(container_id=made)
                return made

            def end(pod=pod, remove=remove, begun=begun):
                begun.wait(30)
                if remove:
                    self.cri.RemovePodSandbox(pod_sandbox_id=pod)
                else:
                    self.cri.StopPodSandbox(pod_sandbox_id=pod)
            with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
                makers = [pool.submit(make, i) for i in range(AT_ONCE - 1)]
                ender = pool.submit(end)
                concurrent.futures.wait([*makers, ender])
            self.assertIsNone(ender.exception())
            for f in makers:
                if f.exception():
                    # Refused by a pod that ends, or ended between create and start.
                    self.assertIn(f.exception().code(), (cri.Code.FAILED_PRECONDITION, cri.Code.NOT_FOUND), f.exception())
            left = self.cri.ListContainers(filter={'pod_sandbox_id': pod}).containers
            if remove:
                self.assertEqual(list(left), [])
                self.assertNotIn(pod, [p.id for p in self.cri.ListPodSandbox().items])
            else:
                self.assertEqual({c.state for c in left} - {cri.api().CONTAINER_EXITED}, set())
                self.assertEqual(self.pod_status(pod).state, cri.api().SANDBOX_NOTREADY)
                self.assertEqual(cri.code_of(self.create, pod, 'another', config), cri.Code.FAILED_PRECONDITION)

    def test_a_pod_is_removed_while_it_is_made(self):
        """Whoever comes first: in the end the pod is whole, or gone, and its name is free."""
        for i in range(10):
            config = self.pod_config(f'made-{i}')
            made = self.cri.future('RunPodSandbox', config=config)
            for p in self.cri.ListPodSandbox().items:
                self.cri.RemovePodSandbox(pod_sandbox_id=p.id)
            pod = made.result().pod_sandbox_id
            self.cri.RemovePodSandbox(pod_sandbox_id=pod)
            again = self.cri.RunPodSandbox(config=config).pod_sandbox_id
            self.assertNotEqual(again, pod)
            self.cri.RemovePodSandbox(pod_sandbox_id=again)
        self.assertEqual(list(self.cri.ListPodSandbox().items), [])

    def test_many_clients_make_and_remove(self):
        """Each pod with a running container, all of it at once; none knows of the others."""
        channels = [cri.Cri() for _ in range(AT_ONCE)]

        def whole(i):
            api, config = channels[i % AT_ONCE], self.pod_config(f'many-{i}')
            pod = api.RunPodSandbox(config=config).pod_sandbox_id
            made = api.CreateContainer(pod_sandbox_id=pod, sandbox_config=config, config=self.container_config('main')).container_id
            api.StartContainer(container_id=made)
            status = api.PodSandboxStatus(pod_sandbox_id=pod).status
            if i % 2:
                api.StopContainer(container_id=made, timeout=20)
                api.RemoveContainer(container_id=made)
                api.StopPodSandbox(pod_sandbox_id=pod)
            api.RemovePodSandbox(pod_sandbox_id=pod)
            return status.network.ip
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            addresses = list(pool.map(whole, range(PODS)))
        for api in channels:
            api.channel.close()
        self.assertTrue(all(addresses))
        self.assertEqual(list(self.cri.ListPodSandbox().items), [])
        self.assertEqual(list(self.cri.ListContainers().containers), [])

    def test_ids(self):
        """By a unique beginning everywhere; unknown is fine to what ends things, and NotFound to all else."""
        pod = self.pod('ids')
        made = self.container(pod, SERVICE)
        self.assertEqual(self.cri.PodSandboxStatus(pod_sandbox_id=pod[:13]).status.id, pod)
        self.assertEqual(self.cri.ContainerStatus(container_id=made[:13]).status.id, made)
        self.assertEqual([c.id for c in self.cri.ListContainers(filter={'id': made[:13]}).containers], [made])
        self.assertEqual([c.id for c in self.cri.ListContainers(filter={'pod_sandbox_id': pod[:13]}).containers], [made])
        self.assertEqual([p.id for p in self.cri.ListPodSandbox(filter={'id': pod[:13]}).items], [pod])
        self.assertEqual(self.cri.ExecSync(container_id=made[:13], cmd=['echo', 'x']).stdout, b'x\n')
        # Enough containers that some first digit comes twice.
        more = [self.container(pod, SERVICE, f'm{i}', start=False) for i in range(17)]
        first = [m[0] for m in [made, *more]]
        double = next(d for d in first if first.count(d) > 1)
        with self.assertRaises(grpc.RpcError) as failed:
            self.cri.ContainerStatus(container_id=double)
        self.assertEqual(failed.exception.code(), cri.Code.INVALID_ARGUMENT)
        for call in (self.cri.StopContainer, self.cri.RemoveContainer, self.cri.ContainerStatus, self.cri.StartContainer):
            self.assertEqual(cri.code_of(call, container_id=''), cri.Code.INVALID_ARGUMENT)
        for call in (self.cri.StopPodSandbox, self.cri.RemovePodSandbox, self.cri.PodSandboxStatus):
            self.assertEqual(cri.code_of(call, pod_sandbox_id=''), cri.Code.INVALID_ARGUMENT)
        unknown = os.urandom(32).hex()
        for call in (self.cri.StopContainer, self.cri.RemoveContainer):
            self.assertEqual(cri.code_of(call, container_id=unknown), cri.Code.OK)
        for call in (self.cri.ContainerStatus, self.cri.StartContainer):
            self.assertEqual(cri.code_of(call, container_id=unknown), cri.Code.NOT_FOUND)
        self.assertEqual(cri.code_of(self.cri.ExecSync, container_id=unknown, cmd=['true']), cri.Code.NOT_FOUND)
        for call in (self.cri.StopPodSandbox, self.cri.RemovePodSandbox):
            self.assertEqual(cri.code_of(call, pod_sandbox_id=unknown), cri.Code.OK)
        self.assertEqual(cri.code_of(self.cri.PodSandboxStatus, pod_sandbox_id=unknown), cri.Code.NOT_FOUND)
        self.assertEqual(cri.code_of(self.cri.CreateContainer, pod_sandbox_id=unknown, sandbox_config=self.configs[pod],
                                     config=self.container_config('x')), cri.Code.NOT_FOUND)
        self.assertEqual(list(self.cri.ListContainers(filter={'id': unknown}).containers), [])
        # What ended stays so, and says so.
        self.cri.StopContainer(container_id=made, timeout=0)
        self.assertEqual(cri.code_of(self.cri.StartContainer, container_id=made), cri.Code.FAILED_PRECONDITION)
        self.assertIn(cri.code_of(self.cri.ExecSync, container_id=made, cmd=['true']),
                      (cri.Code.FAILED_PRECONDITION, cri.Code.NOT_FOUND))


if __name__ == '__main__':
    running.main()
