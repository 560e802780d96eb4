# Takes jobs until it is told to stop, then finishes the one at hand.
require "socket"

$stdout.sync = true
stop = false
trap("TERM") { stop = true }

# sd_notify in three lines: what listens has said where.
if (address = ENV["NOTIFY_SOCKET"])
  address = "\0#{address[1..]}" if address.start_with?("@")
  Socket.new(:UNIX, :DGRAM).send("READY=1", 0, Socket.pack_sockaddr_un(address))
end
puts "ready on Ruby #{RUBY_VERSION}"

job = 0
until stop
  sleep 0.5
  puts "did job #{job += 1}"
end
puts "stops after #{job} jobs"
