#include "dbus/userpodctl/bus_client.hpp"

#include <fmt/core.h>
#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>

#include <array>
#include <cerrno>
#include <optional>

#include "daemon/sys/fd.hpp"

namespace userpod::ctl {
namespace {

constexpr const char* kService = "org.userpod1";
// A start on demand makes the node and its network first.
constexpr std::uint64_t kPatience = 60'000'000;

struct Unref {
  void operator()(sd_bus_message* message) const { sd_bus_message_unref(message); }
  void operator()(sd_bus_slot* slot) const { sd_bus_slot_unref(slot); }
};
using Message = std::unique_ptr<sd_bus_message, Unref>;
using Slot = std::unique_ptr<sd_bus_slot, Unref>;

struct BusError {
  sd_bus_error value = SD_BUS_ERROR_NULL;
  BusError() = default;
  BusError(const BusError&) = delete;
  BusError& operator=(const BusError&) = delete;
  ~BusError() { sd_bus_error_free(&value); }
};

std::optional<Code> codeOf(std::string_view name) {
#define X(code, grpc, dbus, status) \
  if (name == (dbus)) return Code::code;
  USERPOD_ERROR_TABLE(X)
#undef X
  return std::nullopt;
}

Error toError(const sd_bus_error* error, int failed) {
  std::string_view name = error != nullptr && error->name != nullptr ? error->name : "";
  std::string text = error != nullptr && error->message != nullptr ? error->message : "";
  if (auto code = codeOf(name)) return {*code, text};
  if (name == SD_BUS_ERROR_SERVICE_UNKNOWN || name == SD_BUS_ERROR_NAME_HAS_NO_OWNER)
    return {Code::NotReady,
            "userpod is not on the session bus: not installed for this user, or not started. Start it with: "
            "systemctl --user start userpod.service"};
  if (name == SD_BUS_ERROR_NO_REPLY || name == SD_BUS_ERROR_DISCONNECTED || name == SD_BUS_ERROR_TIMEOUT)
    return {Code::NotReady, "the daemon went away or does not answer; see: systemctl --user status userpod.service"};
  if (name.find("Spawn") != std::string_view::npos || name.find("systemd1") != std::string_view::npos)
    return {Code::NotReady, fmt::format("the daemon does not start ({}); see: systemctl --user status userpod.service "
                                        "userpod-node.service, and: userpodctl doctor",
                                        text)};
  if (!text.empty()) return {Code::System, text};
  return sysError("call to the daemon", -failed);
}

Result<Message> newCall(sd_bus* bus, const std::string& path, const char* interface, const char* member,
                        const Arguments& arguments) {
  sd_bus_message* raw = nullptr;
  int failed = sd_bus_message_new_method_call(bus, &raw, kService, path.c_str(), interface, member);
  Message message(raw);
  if (failed >= 0 && arguments) failed = arguments(raw);
  if (failed < 0) return sysError(fmt::format("{} of {}", member, path), -failed);
  return message;
}

struct Waiting {
  const std::function<void(const Json&)>& progress;
  std::optional<Result<Json>> result;
};

int onFinished(sd_bus_message* reply, void* data, sd_bus_error*) {
  auto& waiting = *static_cast<Waiting*>(data);
  if (sd_bus_message_is_method_error(reply, nullptr) > 0)
    waiting.result = toError(sd_bus_message_get_error(reply), sd_bus_message_get_errno(reply));
  else
    waiting.result = messageToJson(reply);
  return 0;
}

int onChanged(sd_bus_message* signal, void* data, sd_bus_error*) {
  auto& waiting = *static_cast<Waiting*>(data);
  auto content = messageToJson(signal);  // interface, changed, invalidated
  if (content && waiting.progress && content->is_array() && content->size() == 3) waiting.progress((*content)[1]);
  return 0;
}

// SIGINT and SIGTERM as a descriptor, for as long as it lives.
class Interrupts {
 public:
  Interrupts() {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    ::sigprocmask(SIG_BLOCK, &set, &before_);
    fd_ = UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  }
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;
  ~Interrupts() { ::sigprocmask(SIG_SETMASK, &before_, nullptr); }
  int fd() const { return fd_.get(); }
  bool take() const {
    signalfd_siginfo taken{};
    return ::read(fd_.get(), &taken, sizeof(taken)) == sizeof(taken);
  }

 private:
  sigset_t before_{};
  UniqueFd fd_;
};

// Until the bus or a signal has something.
Status waitForEvents(sd_bus* bus, const Interrupts& interrupts) {
  int events = sd_bus_get_events(bus);
  std::array<pollfd, 2> entries = {pollfd{sd_bus_get_fd(bus), static_cast<short>(events), 0},
                                   pollfd{interrupts.fd(), POLLIN, 0}};
  if (events < 0) return sysError("session bus", -events);
  if (::poll(entries.data(), entries.size(), -1) < 0 && errno != EINTR) return sysError("poll");
  return {};
}

}  // namespace

Arguments trueOptions(const std::vector<std::string>& names) {
  return [names](sd_bus_message* message) {
    int failed = sd_bus_message_open_container(message, 'a', "{sv}");
    for (const auto& name : names)
      if (failed >= 0) failed = sd_bus_message_append(message, "{sv}", name.c_str(), "b", 1);
    return failed < 0 ? failed : sd_bus_message_close_container(message);
  };
}

Result<BusClient> BusClient::open() {
  sd_bus* bus = nullptr;
  int failed = sd_bus_open_user(&bus);
  if (failed < 0)
    return Error(Code::NotReady,
                 fmt::format("no session bus ({}): log in with a session of your own (not su or sudo); on "
                             "Debian: apt install dbus-user-session. Without a bus: userpod-cri",
                             sysError("connect", -failed).text()));
  return BusClient(bus);
}

Result<Json> BusClient::call(const std::string& path, const char* interface, const char* member,
                             const Arguments& arguments, bool activate) {
  USERPOD_TRY(message, newCall(bus_.get(), path, interface, member, arguments));
  if (!activate) (void)sd_bus_message_set_auto_start(message.get(), 0);
  BusError error;
  sd_bus_message* raw = nullptr;
  int failed = sd_bus_call(bus_.get(), message.get(), kPatience, &error.value, &raw);
  Message reply(raw);
  if (failed < 0) return toError(&error.value, failed);
  return messageToJson(raw);
}

Result<Json> BusClient::properties(const std::string& path, const char* interface, bool activate) {
  auto all = call(
      path, "org.freedesktop.DBus.Properties", "GetAll",
      [interface](sd_bus_message* message) { return sd_bus_message_append(message, "s", interface); }, activate);
  if (all) readable(*all);
  return all;
}

Result<BusClient::Object> BusClient::find(const std::string& key, const std::vector<std::string>& kinds) {
  std::optional<Error> last;
  std::string tried;
  for (const auto& kind : kinds) {
    auto found = call(kRootPath, kManager, ("Get" + kind).c_str(), [&key](sd_bus_message* message) {
      return sd_bus_message_append(message, "sa{sv}", key.c_str(), 0);
    });
    if (found) return Object{found->get<std::string>(), "org.userpod1." + kind};
    Code code = found.error().code();
    bool missing = code == Code::NoSuchPod || code == Code::NoSuchContainer || code == Code::NoSuchImage;
    // A name that is no image reference may be meant for another kind.
    if (!missing && !(code == Code::InvalidArgument && kind == "Image" && kinds.size() > 1))
      return std::move(found).error();
    tried += (tried.empty() ? "no " : ", ") + kind;
    last = std::move(found).error();
  }
  if (kinds.size() == 1 && last) return *last;
  for (char& c : tried) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return Error(last ? last->code() : Code::InvalidArgument, fmt::format("{} named {}", tried, key));
}

Result<Json> BusClient::list(const char* method, const std::vector<const char*>& fields, bool activate) {
  auto options = [&](sd_bus_message* message) {
    if (fields.empty()) return sd_bus_message_append(message, "a{sv}", 0);
    std::vector<char*> names;
    for (const auto* field : fields) names.push_back(const_cast<char*>(field));
    names.push_back(nullptr);
    int failed = sd_bus_message_open_container(message, 'a', "{sv}");
    if (failed >= 0) failed = sd_bus_message_open_container(message, 'e', "sv");
    if (failed >= 0) failed = sd_bus_message_append(message, "s", "fields");
    if (failed >= 0) failed = sd_bus_message_open_container(message, 'v', "as");
    if (failed >= 0) failed = sd_bus_message_append_strv(message, names.data());
    for (int open = 0; open < 3 && failed >= 0; ++open) failed = sd_bus_message_close_container(message);
    return failed;
  };
  USERPOD_TRY(found, call(kRootPath, kManager, method, options, activate));
  Json objects = Json::array();
  for (auto& pair : found) {
    Json object = {{"Path", pair[0]}};
    for (auto& [name, value] : pair[1].items()) object[name] = std::move(value);
    readable(object);
    objects.push_back(std::move(object));
  }
  return objects;
}

Result<Json> BusClient::runJob(const std::string& path, const std::string& interface, const char* method,
                               const Arguments& arguments, const JobWatch& watch) {
  USERPOD_TRY(answer, call(path, interface.c_str(), method, arguments));
  if (!answer.is_array() || answer.size() != 2) return Error(Code::Internal, "the daemon answered without a job");
  return waitForJob(answer[1].get<std::string>(), watch);
}

Result<Json> BusClient::waitForJob(const std::string& job, const JobWatch& watch) {
  Waiting waiting{watch.progress, std::nullopt};
  Interrupts interrupts;
  sd_bus_slot *matched = nullptr, *pending = nullptr;
  int failed = sd_bus_match_signal(bus_.get(), &matched, kService, job.c_str(), "org.freedesktop.DBus.Properties",
                                   "PropertiesChanged", onChanged, &waiting);
  Slot match(matched);
  if (failed < 0) return sysError("listen to the job", -failed);
  if (watch.progress)  // what it came to before anybody listened
    if (auto begun = properties(job, "org.userpod1.Job")) watch.progress(*begun);
  USERPOD_TRY(message, newCall(bus_.get(), job, "org.userpod1.Job", "Wait", noOptions()));
  failed = sd_bus_call_async(bus_.get(), &pending, message.get(), onFinished, &waiting, UINT64_MAX);
  Slot call(pending);
  if (failed < 0) return sysError("wait for the job", -failed);
  bool canceled = false;
  while (!waiting.result) {
    failed = sd_bus_process(bus_.get(), nullptr);
    if (failed < 0) return Error(Code::NotReady, "the session bus or the daemon went away while the job ran", -failed);
    if (failed > 0) continue;
    USERPOD_CHECK(waitForEvents(bus_.get(), interrupts));
    if (!interrupts.take()) continue;
    if (canceled) return Error(Code::Canceled, "interrupted; the job may still run");
    canceled = true;
    sd_bus_call_method_async(bus_.get(), nullptr, kService, job.c_str(), "org.userpod1.Job", "Cancel", nullptr, nullptr,
                             "a{sv}", 0);
    if (watch.interrupted) watch.interrupted();
  }
  return std::move(*waiting.result);
}

}  // namespace userpod::ctl
