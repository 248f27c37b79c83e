#include "daemon/streaming/channel_connection.hpp"

#include <openssl/evp.h>

#include <algorithm>

#include "daemon/sys/log.hpp"

namespace userpod::streaming {
namespace {

constexpr unsigned char kCloseSignal = 255;

std::string encode(std::string_view bytes) {
  std::string out(4 * ((bytes.size() + 2) / 3) + 1, '\0');
  int size = ::EVP_EncodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                               reinterpret_cast<const unsigned char*>(bytes.data()), static_cast<int>(bytes.size()));
  out.resize(static_cast<std::size_t>(size));
  return out;
}

// Whole groups of four. False: it is no base64.
bool decode(std::string_view text, std::string& out) {
  out.resize(text.size() / 4 * 3);
  if (text.empty()) return true;
  int size = ::EVP_DecodeBlock(reinterpret_cast<unsigned char*>(out.data()),
                               reinterpret_cast<const unsigned char*>(text.data()), static_cast<int>(text.size()));
  if (size < 0) return false;
  auto padding = std::min<std::size_t>(text.size() - std::min(text.find('='), text.size()), 2);
  out.resize(static_cast<std::size_t>(size) - padding);
  return true;
}

std::vector<Channel> commandChannels(bool out, bool err, bool tty) {
  // The client waits for a first message, empty, on the lowest channel that it reads.
  std::vector<Channel> channels = {{3, {{"streamtype", "error"}}, false, !out && !err},
                                   {0, {{"streamtype", "stdin"}}, true, false},
                                   {1, {{"streamtype", "stdout"}}, false, out},
                                   {2, {{"streamtype", "stderr"}}, false, !out && err}};
  if (tty) channels.push_back(Channel{4, {{"streamtype", "resize"}}, true, false});
  return channels;
}

std::vector<Channel> forwardChannels(const std::vector<std::uint16_t>& ports) {
  std::vector<Channel> channels;
  for (StreamId i = 0; i < ports.size(); ++i) {
    std::uint16_t port = ports[i];
    std::string bytes = {static_cast<char>(port & 0xff), static_cast<char>(port >> 8)};
    StreamHeaders headers = {{"port", std::to_string(port)}, {"requestid", std::to_string(i)}};
    headers["streamtype"] = "error";
    channels.push_back(Channel{2 * i + 1, headers, false, true, bytes});
    headers["streamtype"] = "data";
    channels.push_back(Channel{2 * i, headers, true, true, bytes});
  }
  return channels;
}

}  // namespace

std::vector<Channel> channelsOf(const SessionRequest& request) {
  if (const auto* exec = std::get_if<Exec>(&request))
    return commandChannels(exec->request.out, exec->request.err, exec->request.tty);
  if (const auto* attach = std::get_if<Attach>(&request))
    return commandChannels(attach->request.out, attach->request.err, attach->request.tty);
  return forwardChannels(std::get<PortForward>(request).ports);
}

void ChannelConnection::start(Handler& handler) {
  handler_ = &handler;
  socket_->start(*this);
  for (const auto& channel : channels_) {
    if (!handler_->opened(channel.id, channel.headers)) sent_.insert(channel.id);
    if (channel.greets) send(channel.id, channel.greeting);
  }
}

const Channel* ChannelConnection::channel(StreamId id) const {
  auto found = std::find_if(channels_.begin(), channels_.end(), [id](const Channel& one) { return one.id == id; });
  return found == channels_.end() ? nullptr : &*found;
}

void ChannelConnection::send(StreamId id, std::string_view bytes) {
  if (sent_.contains(id)) return;
  std::string message;
  if (base64_) {
    message = static_cast<char>('0' + id) + encode(bytes);
  } else {
    message.reserve(bytes.size() + 1);
    message += static_cast<char>(id);
    message += bytes;
  }
  socket_->send(std::move(message), base64_);
}

void ChannelConnection::message(std::string_view part, bool first, bool last) {
  if (first) {
    numbered_ = false;
    undecoded_.clear();
  }
  if (!numbered_) {
    if (part.empty()) return;
    auto number = static_cast<unsigned char>(part.front());
    current_ = base64_ ? static_cast<unsigned char>(number - '0') : number;
    numbered_ = true;
    part.remove_prefix(1);
  }
  if (closeSignals_ && current_ == kCloseSignal) {
    if (!part.empty()) endChannel(static_cast<unsigned char>(part.front()));
    return;
  }
  const Channel* target = channel(current_);
  if (target != nullptr && target->fromClient && !received_.contains(current_)) pass(part, last);
}

void ChannelConnection::pass(std::string_view bytes, bool last) {
  if (!base64_) {
    if (!bytes.empty()) handler_->received(current_, bytes);
    return;
  }
  std::string text = std::exchange(undecoded_, {}).append(bytes);
  std::size_t whole = text.size() - text.size() % 4;
  if (!last) undecoded_ = text.substr(whole);
  std::string decoded;
  if ((last && whole != text.size()) || !decode(std::string_view(text).substr(0, whole), decoded)) {
    logInfo("streaming: connection closed: a message that is no base64");
    return socket_->close();
  }
  if (!decoded.empty()) handler_->received(current_, decoded);
}

void ChannelConnection::endChannel(StreamId id) {
  const Channel* target = channel(id);
  if (target != nullptr && target->fromClient && received_.insert(id).second) handler_->ended(id);
}

}  // namespace userpod::streaming
