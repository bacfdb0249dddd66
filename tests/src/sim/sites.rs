//! Hosts of the web: they serve the MTA-STS policies of domains, well and badly, and take TLS-RPT reports.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use relay_core::rng::Rng;
use relay_core::sts::Mode;

use super::agenda::Dice;
use super::certs::Paper;
use super::names::{Names, host_name};
use super::profile::Profile;
use super::world::World;

/// The host that reports are posted to.
pub(crate) const COLLECTOR: &str = "reports.test";

/// How a site behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SiteManner {
    Well,
    /// It takes no connection.
    Down,
    /// It takes connections, and says nothing.
    Silent,
    /// One octet a second.
    Dripping,
    /// Its certificate proves nothing.
    Unproven,
    /// It sends everybody elsewhere.
    Redirecting,
    /// It answers 500.
    Failing,
    /// It answers with a page for people.
    Page,
}

impl SiteManner {
    const BAD: [Self; 7] = [
        Self::Down,
        Self::Silent,
        Self::Dripping,
        Self::Unproven,
        Self::Redirecting,
        Self::Failing,
        Self::Page,
    ];
}

/// What a policy says.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Says {
    pub(crate) mode: &'static str,
    pub(crate) mx: Vec<String>,
    pub(crate) max_age: u32,
}

impl Says {
    pub(crate) fn text(&self) -> String {
        let mx: String = self.mx.iter().map(|mx| format!("mx: {mx}\r\n")).collect();
        let Self { mode, max_age, .. } = self;
        format!("version: STSv1\r\nmode: {mode}\r\n{mx}max_age: {max_age}\r\n")
    }
}

/// A host of the web.
#[derive(Debug)]
pub(crate) struct Site {
    /// The domain whose policy it serves; none for the one that takes reports.
    pub(crate) domain: Option<String>,
    pub(crate) manner: SiteManner,
    pub(crate) paper: Paper,
    /// The id in the domain's TXT record; none while it has no record.
    pub(crate) id: Option<u32>,
    pub(crate) says: Says,
    /// What it ever served whole, with a certificate that proves it.
    pub(crate) served: BTreeSet<Says>,
}

/// Who wants the reports of a domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wants {
    Nothing,
    Mail,
    Post,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Sites {
    pub(crate) all: Vec<Site>,
}

/// The address of a site.
pub(crate) fn site_ip(site: usize) -> IpAddr {
    let last = u8::try_from(site + 128).unwrap_or(255);
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, last))
}

/// The site at an address.
pub(crate) fn site_at(ip: IpAddr) -> Option<usize> {
    match ip {
        IpAddr::V4(ip) if ip.octets()[..3] == [203, 0, 113] => {
            usize::from(ip.octets()[3]).checked_sub(128)
        }
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

impl Site {
    pub(crate) fn name(&self) -> String {
        match &self.domain {
            Some(domain) => format!("mta-sts.{domain}"),
            None => COLLECTOR.to_owned(),
        }
    }
}

impl Sites {
    /// One for each domain that has a policy, and the one for reports.
    pub(crate) fn new(profile: &Profile, names: &Names, rng: &mut Rng) -> Self {
        let mut sites = Self::default();
        if !profile.sts {
            return sites;
        }
        let domains = names.groups.iter().flat_map(|group| &group.domains);
        for domain in domains {
            if !rng.chance(700) {
                continue;
            }
            let says = says(names, domain, rng);
            sites.all.push(Site {
                domain: Some(domain.clone()),
                manner: some_manner(rng),
                paper: Paper::Site,
                id: Some(1),
                says,
                served: BTreeSet::new(),
            });
        }
        sites.all.push(Site {
            domain: None,
            manner: some_manner(rng),
            paper: Paper::Site,
            id: None,
            says: Says {
                mode: "none",
                mx: Vec::new(),
                max_age: 0,
            },
            served: BTreeSet::new(),
        });
        sites.all.iter_mut().for_each(|site| site.show(rng));
        sites
    }

    /// The TXT records: the names, and what they say.
    pub(crate) fn records(&self) -> Vec<(String, String)> {
        let record = |site: &Site| {
            let (domain, id) = (site.domain.as_ref()?, site.id?);
            Some((format!("_mta-sts.{domain}"), format!("v=STSv1; id={id};")))
        };
        self.all.iter().filter_map(record).collect()
    }
}

impl Site {
    fn show(&mut self, rng: &mut Rng) {
        self.paper = match self.manner == SiteManner::Unproven {
            true => rng.pick(&Paper::BAD),
            false => Paper::Site,
        };
    }
}

fn some_manner(rng: &mut Rng) -> SiteManner {
    match rng.chance(650) {
        true => SiteManner::Well,
        false => rng.pick(&SiteManner::BAD),
    }
}

/// A policy for a domain: most name its hosts.
fn says(names: &Names, domain: &str, rng: &mut Rng) -> Says {
    let hosts = names.hosts_of(domain).unwrap_or_default();
    let mx = match rng.below(10) {
        0 => vec!["elsewhere.test".to_owned()],
        1 | 2 => vec!["*.test".to_owned()],
        _ => hosts.iter().map(|&host| host_name(host)).collect(),
    };
    Says {
        mode: rng.pick(&["enforce", "enforce", "enforce", "testing", "none"]),
        mx,
        max_age: rng.pick(&[300, 3600, 86_400, 604_800]),
    }
}

impl World {
    /// A site changes its ways, or a domain its policy; not every domain thinks of the id then.
    pub(crate) fn change_site(&mut self) {
        let count = self.sites.all.len() as u64;
        if self.calm || count == 0 {
            return;
        }
        let which = self.rng.below(count) as usize;
        let rng = &mut self.rng;
        let site = &mut self.sites.all[which];
        let kind = rng.below(5);
        match (&site.domain, kind) {
            (Some(domain), 0 | 1) => {
                site.says = says(&self.names, domain, rng);
                if kind == 0 {
                    site.id = Some(site.id.map_or(1000, |id| id + 1));
                }
            }
            (Some(_), 2) => {
                site.id = match site.id {
                    Some(_) => None,
                    None => Some(rng.range(2000, 9000) as u32),
                }
            }
            (_, _) => {
                site.manner = some_manner(rng);
                site.show(rng);
            }
        }
        let (name, manner, id, says) = (site.name(), site.manner, site.id, site.says.clone());
        self.tell(format_args!("{name} is {manner:?}, id {id:?}: {says:?}"));
        self.publish();
    }

    /// Every domain names its hosts, under a new id, and every site works.
    pub(crate) fn calm_sites(&mut self) {
        for site in &mut self.sites.all {
            (site.manner, site.paper) = (SiteManner::Well, Paper::Site);
            if let Some(domain) = &site.domain {
                let hosts = self.names.hosts_of(domain).unwrap_or_default();
                site.says.mx = hosts.iter().map(|&host| host_name(host)).collect();
                site.id = Some(10_000);
            }
        }
        self.publish();
    }

    /// The zone says what the sites want it to.
    pub(crate) fn publish(&mut self) {
        self.names.site_names = (self.sites.all.iter().map(Site::name).enumerate())
            .map(|(index, name)| (name, site_ip(index)))
            .collect();
        self.names.texts = self.sites.records();
        for (domain, wants) in &self.wants {
            let rua = match wants {
                Wants::Nothing => continue,
                Wants::Mail => format!("mailto:tlsrpt@{domain}"),
                Wants::Post => format!("https://{COLLECTOR}/{domain}"),
            };
            let text = format!("v=TLSRPTv1; rua={rua}");
            self.names
                .texts
                .push((format!("_smtp._tls.{domain}"), text));
        }
        self.names.rebuild();
    }
}

/// The mode of a policy, as sites write it.
pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Testing => "testing",
        Mode::None => "none",
    }
}
