#include "tests/benchmark/bare_slirp.hpp"

#include <fmt/core.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>

#include "tests/benchmark/bare_forward.hpp"

namespace userpod::bench {
namespace {

Result<std::string> request(const std::string& path, const std::string& text) {
  UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  if (path.size() >= sizeof name.sun_path) return Error(Code::InvalidArgument, path + " is too long");
  std::memcpy(name.sun_path, path.c_str(), path.size());
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&name), sizeof name) < 0)
    return sysError("connect to " + path);
  USERPOD_CHECK(writeAll(socket.get(), text));
  ::shutdown(socket.get(), SHUT_WR);
  return readAll(socket.get(), 4096);
}

}  // namespace

Result<std::unique_ptr<SlirpForward>> SlirpForward::start(const NodeInside& node, const std::string& networkNamespace,
                                                          const std::string& directory, std::uint16_t port) {
  USERPOD_TRY(program, findProgram("slirp4netns"));
  USERPOD_TRY(ready, makePipe());
  USERPOD_TRY(exit, makePipe());
  USERPOD_TRY(cgroup, node.makeCgroup("/bench-slirp"));
  const std::string control = directory + "/slirp.sock";
  (void)::unlink(control.c_str());
  SpawnOptions options;
  options.argv = {program,
                  "--mtu=65520",
                  "--configure",
                  "--disable-host-loopback",
                  "--ready-fd=3",
                  "--exit-fd=4",
                  "--api-socket=" + control,
                  "--netns-type=path",
                  networkNamespace,
                  "tap0"};
  options.environment = {"PATH=/usr/sbin:/usr/bin:/sbin:/bin"};
  options.descriptors = {{ready.write.get(), 3}, {exit.read.get(), 4}};
  options.cgroup = cgroup.get();
  options.deathSignal = SIGKILL;
  std::unique_ptr<SlirpForward> made(new SlirpForward);
  USERPOD_TRY(child, spawn(options));
  made->child_ = std::move(child);
  made->exit_ = std::move(exit.write);
  ready.write.reset();
  char byte = 0;
  if (::read(ready.read.get(), &byte, 1) != 1) return Error(Code::HelperMissing, "slirp4netns does not start");
  USERPOD_TRY(hostPort, freePort());
  made->port_ = hostPort;
  USERPOD_TRY(answer,
              request(control, fmt::format(R"({{"execute":"add_hostfwd","arguments":{{"proto":"tcp",)"
                                           R"("host_addr":"127.0.0.1","host_port":{},"guest_addr":"10.0.2.100",)"
                                           R"("guest_port":{}}}}})",
                                           made->port_, port)));
  if (answer.find("error") != std::string::npos) return Error(Code::Internal, "slirp4netns: " + answer);
  return made;
}

}  // namespace userpod::bench
