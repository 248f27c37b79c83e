// Namespaces and the network of pods and their containers.
#include <arpa/inet.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <sstream>

#include "tests/conformance/world.hpp"

namespace userpod::conformance {
namespace {

namespace fs = std::filesystem;

auto mode(void (v1::NamespaceOption::*set)(v1::NamespaceMode), v1::NamespaceMode value) {
  return [=](v1::PodSandboxConfig& config) { (namespacesOf(config)->*set)(value); };
}
const auto kNodeNetwork = mode(&v1::NamespaceOption::set_network, v1::NODE);
const auto kNodeIpc = mode(&v1::NamespaceOption::set_ipc, v1::NODE);
const auto kNodePid = mode(&v1::NamespaceOption::set_pid, v1::NODE);
const auto kPodPid = mode(&v1::NamespaceOption::set_pid, v1::POD);

std::string of(const Container& container, const std::string& name) {
  return namespaceOf(container.pid(), name);
}
std::string node(const std::string& name) {
  return namespaceOf(getpid(), name);
}

v1::RunPodSandboxRequest request(const v1::PodSandboxConfig& config) {
  return with<v1::RunPodSandboxRequest>([&](auto& r) { *r.mutable_config() = config; });
}

// Answers every connection to the port with one line.
auto server(const std::string& line, int port) {
  return shell("trap 'exit 0' TERM; echo up; while :; do echo " + line + " | nc -l -p " + std::to_string(port) +
               " & wait $!; done");
}

// What a TCP server at the address says to this process.
std::string answerAt(const std::string& address, int port) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, address.c_str(), &to.sin_addr);
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  timeval limit{2, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  std::string text(256, '\0');
  bool connected = connect(fd, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0;
  auto size = connected ? read(fd, text.data(), text.size()) : -1;
  close(fd);
  text.resize(size > 0 ? static_cast<std::size_t>(size) : 0);
  return text;
}

// The first process of the PID namespace that this one is in.
pid_t firstOf(const std::string& pidNamespace) {
  for (const auto& entry : fs::directory_iterator("/proc")) {
    auto name = entry.path().filename().string();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    try {
      std::istringstream status(readFile(entry.path() / "status"));
      for (std::string line; std::getline(status, line);)
        if (line.rfind("NSpid:", 0) == 0 && line.substr(line.find_last_of(" \t") + 1) == "1" &&
            fs::read_symlink(entry.path() / "ns/pid").string() == pidNamespace)
          return std::stoi(name);
    } catch (const std::exception&) {  // has ended
    }
  }
  return 0;
}

}  // namespace

// ---- PID

TEST(PidNamespace, OfContainerIsItsOwn) {
  PROMISE("1.3 pid CONTAINER");
  Pod pod;
  Container one(pod), two(pod);
  EXPECT_NE(of(one, "pid"), of(two, "pid"));
  EXPECT_NE(of(one, "pid"), node("pid"));
  EXPECT_EQ(one.text("tr '\\0' ' ' < /proc/1/cmdline").substr(0, 7), "/bin/sh");
}

TEST(PidNamespace, OfPodIsShared) {
  PROMISE("1.3 pid POD");
  Pod pod(kPodPid);
  auto marker = uniqueName("marker");
  Container one(pod, shell("sleep 3600; echo " + marker)), two(pod);
  EXPECT_EQ(of(one, "pid"), of(two, "pid"));
  EXPECT_NE(of(one, "pid"), node("pid"));
  EXPECT_THAT(two.text("ps -o args"), testing::HasSubstr(marker));
  EXPECT_THAT(two.text("tr '\\0' ' ' < /proc/1/cmdline"), testing::Not(testing::HasSubstr("/bin/sh")));
}

TEST(PidNamespace, OfPodOutlivesItsContainers) {
  PROMISE("1.3 pid POD");
  Pod pod(kPodPid);
  std::string first;
  {
    Container one(pod);
    first = of(one, "pid");
    one.up().stop(10);
    EXPECT_EQ(one.status().exit_code(), 0);
  }
  EXPECT_EQ(pod.status().state(), v1::SANDBOX_READY);
  EXPECT_EQ(of(Container(pod), "pid"), first);
}

TEST(PidNamespace, OfPodReapsOrphans) {
  PROMISE("1.3 pid POD");
  Pod pod(kPodPid);
  Container container(pod);
  container.text("(sleep 0.1 &) ; exit 0");
  waitUntil([&] { return container.text("ps -o stat,args | grep -c '^Z' || true") == "0"; }, "no zombies");
}

TEST(PidNamespace, OfNodeIsTheNodes) {
  PROMISE("1.3 pid NODE");
  Pod pod(kNodePid);
  Container container(pod);
  EXPECT_EQ(of(container, "pid"), node("pid"));
  EXPECT_THAT(container.text("ls -d /proc/" + std::to_string(getpid())), testing::HasSubstr("/proc"));
  auto marker = uniqueName("marker");
  {
    Container other(pod, shell("sleep 3600; echo " + marker));
    waitUntil([&] { return processesWith(marker).size() == 1; }, "the container's process");
  }
  EXPECT_EQ(processesWith(marker).size(), 0U);
}

TEST(PidNamespace, OfTargetIsThatOfAnotherContainer) {
  PROMISE("1.3 pid TARGET");
  Pod pod;
  Container target(pod);
  Container debugger(pod, [&](auto& c) {
    auto* options = securityOf(c)->mutable_namespace_options();
    options->set_pid(v1::TARGET);
    options->set_target_id(target.id());
  });
  EXPECT_EQ(of(debugger, "pid"), of(target, "pid"));
  debugger.up().stop(10);
  EXPECT_EQ(debugger.status().exit_code(), 0);
  EXPECT_EQ(target.state(), v1::CONTAINER_RUNNING);
}

TEST(PidNamespace, TargetMustBeARunningContainerOfThePod) {
  PROMISE("1.3 pid TARGET");
  Pod pod, other;
  Container elsewhere(other);
  auto created = Container::created(pod);
  for (const auto& id : {elsewhere.id(), created.id(), std::string(64, 'f'), std::string()}) {
    auto config = containerConfig(pod, [&](auto& c) {
      securityOf(c)->mutable_namespace_options()->set_pid(v1::TARGET);
      securityOf(c)->mutable_namespace_options()->set_target_id(id);
    });
    expectFailure(createRequest(pod, config), {}, "target|container");
  }
}

TEST(PidNamespace, TargetIsNothingForAPod) {
  PROMISE("1.3 pid TARGET");
  expectFailure(request(podConfig(mode(&v1::NamespaceOption::set_pid, v1::TARGET))), {}, "target");
}

TEST(PidNamespace, PodIsOverWhenItsFirstProcessIs) {
  PROMISE("1.5 infra death");
  Pod pod(kPodPid);
  Container container(pod);
  auto first = firstOf(of(container, "pid"));
  ASSERT_GT(first, 1);
  ASSERT_NE(first, getpid());
  killProcess(first);
  waitUntil([&] { return pod.status().state() == v1::SANDBOX_NOTREADY; }, "a pod that is not ready");
  EXPECT_EQ(container.ended().exit_code(), 137);
  expectFailure(createRequest(pod, containerConfig(pod)));
}

// ---- IPC

TEST(IpcNamespace, OfPodIsSharedByItsContainers) {
  PROMISE("1.3 ipc POD");
  Pod pod;
  Container one(pod), two(pod);
  EXPECT_EQ(of(one, "ipc"), of(two, "ipc"));
  EXPECT_NE(of(one, "ipc"), node("ipc"));
  one.text("echo shared > /dev/shm/file");
  EXPECT_EQ(two.text("cat /dev/shm/file"), "shared");
  Pod other;
  EXPECT_EQ(Container(other).text("ls /dev/shm"), "");
}

TEST(IpcNamespace, SharedMemoryHas64MiB) {
  PROMISE("1.3 shm");
  Pod pod;
  EXPECT_EQ(Container(pod).text("df -k /dev/shm | tail -n 1 | awk '{ print $2 }'"), "65536");
}

// Which /dev/shm goes with the node's IPC namespace is the runtime's choice; that there is one for all such pods is
// not.
TEST(IpcNamespace, OfNodeIsTheNodes) {
  PROMISE("1.3 ipc NODE");
  Pod one(kNodeIpc), two(kNodeIpc), apart;
  Container writer(one), reader(two), stranger(apart);
  EXPECT_EQ(of(writer, "ipc"), node("ipc"));
  EXPECT_EQ(of(reader, "ipc"), node("ipc"));
  auto file = "/dev/shm/" + uniqueName("file");
  writer.text("echo shared > " + file);
  auto seen = reader.exec("cat " + file + "; rm " + file);
  EXPECT_EQ(seen.out, "shared\n") << seen.err;
  EXPECT_NE(stranger.exec("ls " + file).code, 0);
}

// ---- User

TEST(UserNamespace, NotAskedForIsTheNodes) {
  PROMISE("1.3 userns");
  Pod pod;
  EXPECT_EQ(of(Container(pod), "user"), node("user"));
  Pod explicitly([](auto& c) { namespacesOf(c)->mutable_userns_options()->set_mode(v1::NODE); });
  EXPECT_EQ(of(Container(explicitly), "user"), node("user"));
}

TEST(UserNamespace, OfPodIsMadeOrNotAdvertised) {
  PROMISE("1.3 userns");
  auto config = podConfig([](auto& c) {
    auto* options = namespacesOf(c)->mutable_userns_options();
    options->set_mode(v1::POD);
    for (auto* map : {options->add_uids(), options->add_gids()}) {
      map->set_host_id(10000);
      map->set_length(1000);
    }
  });
  auto status = call(v1::StatusRequest());
  bool advertised = false;
  for (const auto& handler : status.runtime_handlers())
    if (handler.name().empty()) advertised = handler.features().user_namespaces();
  if (!advertised) return expectFailure(request(config), {}, "user ?n(amespace|s)");
  Pod pod(config, "");
  EXPECT_NE(of(Container(pod), "user"), node("user"));
}

TEST(UserNamespace, OtherModesAreRefused) {
  PROMISE("1.3 userns");
  for (auto bad : {v1::CONTAINER, v1::TARGET})
    expectFailure(request(podConfig([&](auto& c) { namespacesOf(c)->mutable_userns_options()->set_mode(bad); })), {},
                  "user ?n(amespace|s)");
}

// ---- Network

TEST(Network, OfPodIsSharedByItsContainers) {
  PROMISE("1.3 network POD");
  Pod pod;
  Container one(pod), two(pod);
  EXPECT_EQ(of(one, "net"), of(two, "net"));
  EXPECT_NE(of(one, "net"), node("net"));
}

TEST(Network, OfNodeIsTheNodes) {
  PROMISE("1.3 network NODE");
  Pod pod(kNodeNetwork);
  EXPECT_EQ(of(Container(pod), "net"), node("net"));
  EXPECT_EQ(pod.status().network().ip(), "");
  EXPECT_EQ(pod.status().network().additional_ips_size(), 0);
}

TEST(Network, ModesOtherThanPodAndNodeAreRefused) {
  PROMISE("1.3 network modes");
  for (auto bad : {v1::CONTAINER, v1::TARGET}) {
    expectFailure(request(podConfig(mode(&v1::NamespaceOption::set_network, bad))), {}, "network");
    expectFailure(request(podConfig(mode(&v1::NamespaceOption::set_ipc, bad))), {}, "ipc");
  }
}

TEST(Network, AddressOfThePodIsThatOfItsInterface) {
  PROMISE("1.1.5 address");
  Pod pod;
  auto address = pod.status().network().ip();
  in_addr parsed{};
  ASSERT_EQ(inet_pton(AF_INET, address.c_str(), &parsed), 1) << address;
  Container container(pod);
  EXPECT_THAT(container.text("ip -4 -o address show"), testing::HasSubstr(" " + address + "/"));
  EXPECT_EQ(container.text("ip -4 -o address show dev lo | awk '{ print $4 }'"), "127.0.0.1/8");
}

TEST(Network, PodsReachEachOtherAndTheNodeReachesThem) {
  PROMISE("1.1.5 address");
  Pod one, two;
  auto line = uniqueName("line");
  Container listening(one, server(line, 8000)), asking(two);
  auto address = one.status().network().ip();
  EXPECT_NE(address, two.status().network().ip());
  waitUntil([&] { return asking.exec("nc -w 2 " + address + " 8000").out == line + "\n"; }, "an answer to a pod");
  waitUntil([&] { return answerAt(address, 8000) == line + "\n"; }, "an answer to the node");
}

TEST(Network, HostsFileNamesThePod) {
  PROMISE("1.3 hosts");
  Pod pod([](auto& c) { c.set_hostname("named"); });
  auto hosts = Container(pod).text("cat /etc/hosts");
  EXPECT_THAT(hosts, testing::ContainsRegex("127\\.0\\.0\\.1[ \t]+localhost"));
  EXPECT_THAT(hosts, testing::ContainsRegex(pod.status().network().ip() + "[ \t]+named"));
}

TEST(Network, PodWithTheNodesNetworkHasTheNodesHosts) {
  PROMISE("1.3 hosts");
  Pod pod(kNodeNetwork);
  auto hosts = readFile("/etc/hosts");
  if (hosts.empty()) GTEST_SKIP() << "the node has no hosts file";
  EXPECT_EQ(Container(pod).exec("cat /etc/hosts").out, hosts);
}

TEST(Network, StoppedPodHasNoNetwork) {
  PROMISE("1.1.3 network");
  Pod pod;
  auto line = uniqueName("line");
  Container container(pod, server(line, 8000));
  auto address = pod.status().network().ip();
  waitUntil([&] { return answerAt(address, 8000) == line + "\n"; }, "an answer to the node");
  pod.stop();
  EXPECT_EQ(answerAt(address, 8000), "");
}

TEST(PodSandboxStatus, ShowsTheNamespacesAskedFor) {
  PROMISE("1.1.5 namespaces");
  for (const auto& config : {podConfig(kPodPid), podConfig(kNodeNetwork, kNodePid, kNodeIpc), podConfig()}) {
    Pod pod(config, "");
    auto shown = pod.status().linux().namespaces().options();
    const auto& asked = config.linux().security_context().namespace_options();
    EXPECT_EQ(shown.network(), asked.network());
    EXPECT_EQ(shown.pid(), asked.pid());
    EXPECT_EQ(shown.ipc(), asked.ipc());
  }
}

}  // namespace userpod::conformance
